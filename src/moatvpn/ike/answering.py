"""What the connections of a box allow together.

Who calls we learn from IKE_AUTH only: until then the called side goes by what any of them allows.
"""

from __future__ import annotations

from collections import Counter

from moatvpn.config import ConnectionConfig
from moatvpn.ike.proposal import IkePolicy
from moatvpn.wire.algorithms import CipherSuite, Group, PostQuantum


def ike_policy(config: ConnectionConfig) -> IkePolicy:
    """Return what a connection offers or takes for its IKE SA."""
    return IkePolicy(config.ike_suites, config.groups, config.post_quantum)


class Answering:
    """Counts what connections allow. Adding one costs the same whatever they are.

    connections is how many wait to be called. udp is how many are to use UDP without a NAT, too;
    ppks is how many have a PPK. policy is all that any of them allows, in the order of the
    enumerations, best first: of all connections, since a portal may call a moat as well
    (callback.py).
    """

    def __init__(self) -> None:
        self.connections = 0
        self.udp = 0
        self.ppks = 0
        self.policy = IkePolicy((), ())
        self._suites: Counter[CipherSuite] = Counter()
        self._groups: Counter[Group] = Counter()
        self._post_quantum = 0

    def add(self, config: ConnectionConfig) -> None:
        """Take a connection in."""
        self._count(config, 1)

    def remove(self, config: ConnectionConfig) -> None:
        """Take a connection out again."""
        self._count(config, -1)

    def _count(self, config: ConnectionConfig, by: int) -> None:
        self.connections += by * (not config.initiate)
        self.ppks += by * (config.ppk_id is not None)
        self.udp += by * (config.encapsulation == "udp")
        self._suites.update(dict.fromkeys(config.ike_suites, by))
        self._groups.update(dict.fromkeys(config.groups, by))
        self._post_quantum += by * (config.post_quantum is not PostQuantum.OFF)
        self.policy = IkePolicy(
            tuple(suite for suite in CipherSuite if self._suites[suite]),
            tuple(group for group in Group if self._groups[group]),
            PostQuantum.PREFER if self._post_quantum else PostQuantum.OFF,
        )
