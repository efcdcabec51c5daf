"""How often whom: token buckets of constant memory, however many addresses are forged.

An address picks its slot of a table by a hash that is keyed with a secret, so that nobody can aim
at somebody else's slot. Two addresses may share one by chance, and then share its rate.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moatvpn.ike.ike_sa import IkeSa

SLOTS = 4096
_ROUNDING = 0.01  # of a token, for what adding up many steps loses
_PRIME = (1 << 127) - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, and burst at once after a rest."""

    a_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers, who have authenticated nothing yet, may cost us.

    half_open: IKE SAs that wait for IKE_AUTH, in all; half_open_of_host: of one address, which
    many moats behind one NAT may share. cookies_above: half-open IKE SAs from which on everybody
    needs a cookie; without_cookie: the set-ups that go without one, in all, before that.
    host, network, everybody: first requests without a good cookie that are looked at, from one
    address, from its /16, and in all. A source can be forged, but mostly within its own network.
    proved, everybody_proved: the same with a good cookie; the second bounds what public keys cost.
    unknown: other messages, about no IKE SA of ours, that are looked at rather than only counted.
    """

    half_open: int = 1000
    half_open_of_host: int = 100
    cookies_above: int = 50
    without_cookie: Rate = Rate(100, 100)
    host: Rate = Rate(300, 300)
    network: Rate = Rate(1000, 1000)
    everybody: Rate = Rate(3000, 3000)
    proved: Rate = Rate(300, 300)
    everybody_proved: Rate = Rate(1000, 1000)
    unknown: Rate = Rate(50, 50)


DEFAULT_LIMITS = Limits()


class Bucket:
    """One token bucket, for whoever asks."""

    def __init__(self, rate: Rate) -> None:
        self._step = 1 / rate.a_second
        self._slack = (rate.burst - 1 + _ROUNDING) * self._step
        # When the bucket will be full again; what lies further ahead than slack is too much.
        self._full_at = float("-inf")

    def allows(self, now: float) -> bool:
        """Take a token; return whether there was one."""
        ahead = self._full_at - now
        if ahead > self._slack:
            return False
        self._full_at = now + (ahead if ahead > 0 else 0.0) + self._step
        return True


class Buckets:
    """A token bucket a key, of which SLOTS are kept. random gives the hash's secret."""

    def __init__(self, rate: Rate, random: Callable[[int], bytes]) -> None:
        self._step = 1 / rate.a_second
        self._slack = (rate.burst - 1 + _ROUNDING) * self._step
        self._full_at = array("d", [float("-inf")]) * SLOTS
        self._factor = int.from_bytes(random(16), "big") % (_PRIME - 1) + 1

    def allows(self, key: str, now: float) -> bool:
        """Take a token of key's; return whether there was one."""
        slot = int.from_bytes(key.encode(), "big") * self._factor % _PRIME % SLOTS
        ahead = self._full_at[slot] - now
        if ahead > self._slack:
            return False
        self._full_at[slot] = now + (ahead if ahead > 0 else 0.0) + self._step
        return True


class Gate:
    """Looks at a stranger's address alone, before anything of a message is parsed."""

    def __init__(self, limits: Limits, random: Callable[[int], bytes]) -> None:
        self.limits = limits
        self.without_cookie = Bucket(limits.without_cookie)
        self.unknown = Bucket(limits.unknown)
        self._host = Buckets(limits.host, random)
        self._network = Buckets(limits.network, random)
        self._everybody = Bucket(limits.everybody)
        self._proved = Buckets(limits.proved, random)
        self._everybody_proved = Bucket(limits.everybody_proved)

    def allows(self, host: str, now: float) -> bool:
        """Return whether one more first request from host, perhaps forged, is looked at."""
        return (
            self._host.allows(host, now)
            and self._network.allows(_network_of(host), now)
            and self._everybody.allows(now)
        )

    def allows_proved(self, host: str, now: float) -> bool:
        """Return whether one more request of host, which has shown that it is there, is."""
        return self._proved.allows(host, now) and self._everybody_proved.allows(now)


def _network_of(host: str) -> str:
    """Return the text of an IPv4 address's first 16 bits."""
    return host[: host.find(".", host.find(".") + 1)]


class HalfOpen:
    """The IKE SAs that wait for IKE_AUTH, by the initiator's SPI and address.

    It is the address that the first request came from, even if a later one came from elsewhere:
    nobody can put what it has opened on somebody else's account.
    """

    def __init__(self) -> None:
        self._sas: dict[tuple[bytes, str, int], IkeSa] = {}
        self._keys: dict[IkeSa, tuple[bytes, str, int]] = {}
        self._of_host: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sas)

    def of_host(self, host: str) -> int:
        """Return how many there are from one address."""
        return self._of_host[host]

    def get(self, spi_i: bytes, host: str, port: int) -> IkeSa | None:
        """Return the one of this initiator, or None."""
        return self._sas.get((spi_i, host, port))

    def add(self, sa: IkeSa) -> None:
        """Take sa in, in place of another of the same initiator."""
        key = (sa.spi_i, sa.remote.host, sa.remote.port)
        if key in self._sas:
            self.remove(self._sas[key])
        self._sas[key] = sa
        self._keys[sa] = key
        self._of_host[sa.remote.host] += 1

    def remove(self, sa: IkeSa) -> None:
        """Take sa out, if it is there."""
        key = self._keys.pop(sa, None)
        if key is None:
            return
        del self._sas[key]
        host = key[1]
        self._of_host[host] -= 1
        if not self._of_host[host]:
            del self._of_host[host]
