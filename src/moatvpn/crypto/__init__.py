"""Every cryptographic operation, all of it through the cryptography library."""
