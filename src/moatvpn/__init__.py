"""Moat's IPsec: an IKEv2 key exchange, an ESP forwarder, and the tools around them."""

__version__ = "0.1.0"
