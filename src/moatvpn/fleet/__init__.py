"""The customer database and the operators' command line, moat-fleet."""
