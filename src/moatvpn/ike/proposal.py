"""Negotiating the algorithms of an IKE SA (RFC 7296, 2.7 and 3.3; RFC 8247)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from moatvpn.counters import DropReason
from moatvpn.crypto.prf import Prf
from moatvpn.errors import PeerError
from moatvpn.ike.additional import choose_additional, kems_of, offered
from moatvpn.wire.algorithms import CipherSuite, Group, Kem, PostQuantum
from moatvpn.wire.ike_proposal import (
    ADDITIONAL_TYPES,
    Proposal,
    Protocol,
    Transform,
    TransformType,
)

C = TypeVar("C")

_PRFS = (Prf.HMAC_SHA2_512, Prf.HMAC_SHA2_384, Prf.HMAC_SHA2_256)
_PRF_TRANSFORMS = tuple(Transform(TransformType.PRF, prf.value) for prf in _PRFS)
_KNOWN_TYPES = frozenset(
    (
        TransformType.ENCR,
        TransformType.PRF,
        TransformType.INTEG,
        TransformType.KE,
        *ADDITIONAL_TYPES,
    )
)


@dataclass(frozen=True, slots=True)
class IkePolicy:
    """What one side offers or takes for IKE SAs, best first."""

    suites: tuple[CipherSuite, ...]
    groups: tuple[Group, ...]
    post_quantum: PostQuantum = PostQuantum.OFF

    def without_additional(self) -> IkePolicy:
        """Return the same without additional key exchanges."""
        return replace(self, post_quantum=PostQuantum.OFF)

    def allows(self, choice: IkeChoice) -> bool:
        """Return whether it goes with what was chosen by another policy; more than asked does."""
        return (
            choice.suite in self.suites
            and choice.group in self.groups
            and (bool(choice.kems) or self.post_quantum is not PostQuantum.REQUIRE)
        )


@dataclass(frozen=True, slots=True)
class IkeChoice:
    """What was agreed of the peer's proposals: the number of one, its SPI, and algorithms.

    additional has a transform of each additional type in it, and some may be NONE (RFC 9370).
    """

    number: int
    spi: bytes
    suite: CipherSuite
    prf: Prf
    group: Group
    additional: tuple[Transform, ...] = ()

    @property
    def kems(self) -> tuple[Kem, ...]:
        """Return the methods of the additional key exchanges, in their order."""
        return kems_of(self.additional)

    @property
    def key_exchange(self) -> str:
        """Return the names of all key exchanges, such as "x25519+mlkem768"."""
        return "+".join(method.value for method in (self.group, *self.kems))

    def answer(self, spi: bytes) -> Proposal:
        """Return the responder's answer; spi is its own for a rekey, and else empty."""
        prf = Transform(TransformType.PRF, self.prf.value)
        transforms = (self.suite.encr, *integrity(self.suite), prf, self.group.transform)
        return Proposal(self.number, Protocol.IKE, spi, (*transforms, *self.additional))


def integrity(suite: CipherSuite) -> tuple[Transform, ...]:
    """Return the integrity transform of suite, if it has one: a combined mode has none (3.3)."""
    return () if suite.integ is None else (suite.integ,)


def offer(policy: IkePolicy, spi: bytes = b"") -> list[Proposal]:
    """Return what we propose for an IKE SA; spi is empty but for a rekey.

    Combined modes share one proposal, and each other suite has its own, since every encryption
    algorithm of a proposal goes with every integrity algorithm of it (3.3). Those with additional
    key exchanges come again without, since a peer that does not know the type takes none of them.
    """
    groups = tuple(group.transform for group in policy.groups)
    combined = tuple(suite.encr for suite in policy.suites if suite.combined)
    alternatives = [combined] if combined else []
    alternatives += [(s.encr, *integrity(s)) for s in policy.suites if not s.combined]
    each = [(c, offered(way)) for way in policy.post_quantum.ways for c in alternatives]
    return [
        Proposal(number, Protocol.IKE, spi, (*ciphers, *_PRF_TRANSFORMS, *groups, *additional))
        for number, (ciphers, additional) in enumerate(each, start=1)
    ]


def choose(
    proposals: Sequence[Proposal],
    policy: IkePolicy,
    spi_size: int = 0,
    preferred: Group | None = None,
) -> IkeChoice | None:
    """Return what we take of proposals, or None where nothing fits.

    An additional key exchange weighs most. Suites go by our own order, and so do groups, except
    that the one for which the peer has sent its public value already saves a round trip.
    """
    usable = [p for p in proposals if p.protocol == Protocol.IKE and len(p.spi) == spi_size]
    for way in policy.post_quantum.ways:
        candidates = [(p, a) for p in usable if (a := choose_additional(p, way)) is not None]
        for suite in policy.suites:
            for proposal, additional in candidates:
                choice = _choose_of(proposal, suite, policy.groups, preferred, additional)
                if choice is not None:
                    return choice
    return None


def _choose_of(
    proposal: Proposal,
    suite: CipherSuite,
    groups: Sequence[Group],
    preferred: Group | None,
    additional: tuple[Transform, ...],
) -> IkeChoice | None:
    if not offers_suite(proposal, suite) or any(
        t.type not in _KNOWN_TYPES for t in proposal.transforms
    ):
        return None
    prf = next((p for p, t in zip(_PRFS, _PRF_TRANSFORMS, strict=True) if proposal.has(t)), None)
    group = choose_group(proposal, groups, preferred)
    if prf is None or group is None:
        return None
    return IkeChoice(proposal.number, proposal.spi, suite, prf, group, additional)


def offers_suite(proposal: Proposal, suite: CipherSuite) -> bool:
    """Return whether suite is among the alternatives of a proposal of IKE or ESP."""
    if not proposal.has(suite.encr):
        return False
    if suite.integ is not None:
        return proposal.has(suite.integ)
    # With a combined mode there is no integrity algorithm, or NONE is one of them (3.3).
    kinds = proposal.of_type(TransformType.INTEG)
    return not kinds or any(t.id == 0 for t in kinds)


def choose_group(
    proposal: Proposal, groups: Sequence[Group], preferred: Group | None
) -> Group | None:
    """Return the preferred group if both sides have it, else the first of groups they have."""
    common = [group for group in groups if proposal.has(group.transform)]
    if preferred in common:
        return preferred
    return common[0] if common else None


def accept(answer: Sequence[Proposal], policy: IkePolicy, spi_size: int = 0) -> IkeChoice:
    """Return what the responder took; raise PeerError where it is not one that we offered."""
    return only_choice(choose(answer, policy, spi_size), answer)


def only_choice(choice: C | None, answer: Sequence[Proposal]) -> C:
    """Return choice, which we have made of answer, where answer leaves no other.

    Raises PeerError for what we did not offer, and for anything but one proposal with one transform
    of each type in it (3.3.6).
    """
    if choice is None or len(answer) != 1:
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
    kinds = [t.type for t in answer[0].transforms]
    if len(set(kinds)) != len(kinds):
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that chooses nothing")
    return choice
