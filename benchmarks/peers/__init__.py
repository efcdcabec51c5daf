"""What `make bench` compares: ways to carry raw packets between a moat and a portal."""
