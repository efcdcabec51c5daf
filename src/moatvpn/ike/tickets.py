"""Tickets by value (RFC 5723, 6): what a portal hands its moat, to read it again later.

A ticket holds all that the portal needs to go on: so it can have forgotten everything else. It is
good for one connection as it is configured now, for one IKE SA, until a time of the wall clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from moatvpn.config import ConnectionConfig, connection_to_dict
from moatvpn.crypto.prf import Prf
from moatvpn.crypto.tickets import ID_LENGTH, KEY_LENGTH, TicketKey, digest
from moatvpn.ike.proposal import IkeChoice
from moatvpn.wire.algorithms import CipherSuite, Group
from moatvpn.wire.ike_proposal import Transform

TICKET_SECONDS = 86400.0  # the longest that a ticket is good for; the IKE SA's lifetime bounds it
KEY_SECONDS = 86400.0  # how long a key makes tickets; it reads them until the last has expired
SKEW_SECONDS = 60.0  # how far ahead of now a ticket may have been made, after a clock was set
NUMBER_LENGTH = 16
MOST_OCTETS = 1024  # of a ticket that we look at; ours have about half of that


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says.

    number tells it from every other; identity is the moat's; configuration is what
    configuration_digest returned for its connection; times are the wall clock's, in seconds.
    choice and sk_d are those of the IKE SA that it was made for; ours and theirs are fingerprints
    of the public keys that the portal and the moat proved themselves by there.
    """

    number: bytes
    identity: str
    configuration: bytes
    made_at: float
    expires_at: float
    choice: IkeChoice
    ours: str
    theirs: str
    sk_d: bytes = field(repr=False)


def configuration_digest(config: ConnectionConfig, identity: str, public_key: bytes) -> bytes:
    """Return what is another value whenever a connection, or our own identity, is another one."""
    text = json.dumps(connection_to_dict(config), sort_keys=True)
    return digest(text.encode(), identity.encode(), public_key)


def _encode(ticket: Ticket) -> bytes:
    choice = ticket.choice
    additional = [[transform.type, transform.id] for transform in choice.additional]
    algorithms = [choice.suite.value, choice.prf.value, choice.group.value, additional]
    octets = [ticket.number.hex(), ticket.configuration.hex(), ticket.sk_d.hex()]
    times = [ticket.made_at, ticket.expires_at]
    keys = [ticket.ours, ticket.theirs]
    return json.dumps([ticket.identity, octets, times, algorithms, keys]).encode()


def _decode(content: bytes) -> Ticket:
    """Return the ticket that _encode made content of; raise ValueError for one of another make."""
    match json.loads(content):
        case [
            str(identity),
            [str(name), str(configuration), str(sk_d)],
            [float(made_at), float(expires_at)],
            [str(suite), int(prf), str(group), list(pairs)],
            [str(ours), str(theirs)],
        ]:
            additional = tuple(Transform(kind, number) for kind, number in pairs)
            choice = IkeChoice(1, b"", CipherSuite(suite), Prf(prf), Group(group), additional)
            number, digests = bytes.fromhex(name), bytes.fromhex(configuration)
            times, keys = (made_at, expires_at), (ours, theirs)
            return Ticket(number, identity, digests, *times, choice, *keys, bytes.fromhex(sk_d))
    raise ValueError("a ticket of another make")


class TicketKeys:
    """Makes and reads tickets. Their keys change daily, and go when the last ticket has expired.

    wall returns the time of the wall clock, which goes on over restarts, in seconds. save is told
    all keys whenever they change; keys are what it was told last before a restart.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        wall: Callable[[], float],
        keys: Sequence[TicketKey] = (),
        save: Callable[[tuple[TicketKey, ...]], None] = lambda _: None,
    ) -> None:
        self._random = random
        self._wall = wall
        self._save = save
        self._keys = tuple(keys)

    def _rotate(self, now: float) -> TicketKey:
        """Return the key to make tickets with now."""
        longest = KEY_SECONDS + TICKET_SECONDS
        keys = tuple(key for key in self._keys if -SKEW_SECONDS <= now - key.made_at < longest)
        if not keys or now - keys[-1].made_at >= KEY_SECONDS:
            keys += (TicketKey(self._random(ID_LENGTH), self._random(KEY_LENGTH), now),)
        if keys != self._keys:
            self._keys = keys
            self._save(keys)
        return keys[-1]

    def make(
        self,
        identity: str,
        configuration: bytes,
        lifetime: float,
        choice: IkeChoice,
        keys: tuple[str, str],
        sk_d: bytes,
    ) -> tuple[bytes, bytes, int]:
        """Return a new ticket's number, its octets, and for how many seconds it is good.

        keys are fingerprints, ours first; lifetime bounds those seconds.
        """
        now = self._wall()
        seconds = int(min(lifetime, TICKET_SECONDS))
        number = self._random(NUMBER_LENGTH)
        times = now, now + seconds
        ticket = Ticket(number, identity, configuration, *times, choice, *keys, sk_d)
        return number, self._rotate(now).seal(_encode(ticket), self._random), seconds

    def read(self, octets: bytes) -> Ticket | None:
        """Return what a ticket of ours says, None where it is none or its time is over."""
        now = self._wall()
        key = next((key for key in self._keys if key.id == octets[:ID_LENGTH]), None)
        content = key.open(octets) if key is not None and len(octets) <= MOST_OCTETS else None
        if content is None:
            return None
        try:
            ticket = _decode(content)
        except ValueError:
            return None
        good = ticket.made_at - SKEW_SECONDS <= now < ticket.expires_at
        return ticket if good else None
