"""The command line of a box: moatctl."""
