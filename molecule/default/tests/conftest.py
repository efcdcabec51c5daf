"""The lab's machines as fixtures."""

from __future__ import annotations

from machines import attacker, corp, moat, pc, portal, router, tunnel

__all__ = ["attacker", "corp", "moat", "pc", "portal", "router", "tunnel"]
