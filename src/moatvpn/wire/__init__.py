"""Pure codecs: bytes to frozen values and back, and nothing else."""
