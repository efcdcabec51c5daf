"""What the settings name as files: the daemon reads them, and hands their content over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from moatvpn.crypto.certificates import OwnCertificate, RevocationList
from moatvpn.crypto.trust import Moment, TrustAnchors


@dataclass(frozen=True, slots=True)
class ConnectionSecrets:
    """What belongs to one connection and never stands in its settings, nor in any text.

    psk: the pre-shared key. anchors: the CAs that may vouch for the peer. ppk: the postquantum
    pre-shared key (RFC 8784).
    """

    psk: bytes | None = field(default=None, repr=False)
    anchors: TrustAnchors | None = field(default=None, repr=False)
    ppk: bytes | None = field(default=None, repr=False)


NO_SECRETS = ConnectionSecrets()


def _never() -> float:
    return 0.0  # in 1970 no certificate was valid


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a box needs for connections with certificates.

    own is our chain. wall_clock gives the seconds since the epoch, revocations the CRLs in force.
    """

    own: OwnCertificate | None = None
    wall_clock: Callable[[], float] = _never
    revocations: Callable[[], Sequence[RevocationList]] = tuple

    def now_of_caller(self) -> Moment:
        """Return what the time may be on a box that gets it through the tunnel it is to set up.

        Its clock may be late: it had no battery. So the time is between the clock's and the end of
        our own certificate, which the peer, whose clock is right, takes no longer. A clock outside
        our own certificate's time is wrong, and says nothing at all.
        """
        now = self.wall_clock()
        if self.own is None:
            return Moment(now, now)
        first, last = self.own.period()
        return Moment(now if first <= now <= last else first, last)


NO_CERTIFICATES = Certificates()
