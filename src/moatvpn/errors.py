"""Errors, split by whose fault they are.

A peer's fault ends in a counted drop and nothing else; our own fault is told to a person,
who learns what failed, why, and what to do.
"""

from __future__ import annotations

from moatvpn.counters import DropReason


class MoatError(Exception):
    """The base of every error this package raises on purpose."""


class PeerError(MoatError):
    """Bytes from outside that break a rule. The only answer to it is a counted drop.

    reason names the rule and selects the counter; detail is for the log, and carries no secret.
    """

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class OperatorError(MoatError):
    """Something a person on our side must mend: a setting, a file, a request.

    what says which thing failed, why says the cause, remedy says what to do about it.
    """

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what}: {why}. {remedy}")
        self.what = what
        self.why = why
        self.remedy = remedy


class ConfigError(OperatorError):
    """A setting that cannot be accepted."""
