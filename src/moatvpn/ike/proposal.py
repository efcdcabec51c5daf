"""Negotiating the algorithms of an IKE SA (RFC 7296, 2.7 and 3.3; RFC 8247)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moatvpn.counters import DropReason
from moatvpn.crypto.prf import Prf
from moatvpn.errors import PeerError
from moatvpn.wire.algorithms import CipherSuite, Group
from moatvpn.wire.ike_proposal import Proposal, Protocol, Transform, TransformType

_PRFS = (Prf.HMAC_SHA2_512, Prf.HMAC_SHA2_384, Prf.HMAC_SHA2_256)
_PRF_TRANSFORMS = tuple(Transform(TransformType.PRF, prf.value) for prf in _PRFS)
_KNOWN_TYPES = frozenset(
    (TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE)
)


@dataclass(frozen=True, slots=True)
class IkePolicy:
    """What one side offers or takes for IKE SAs, best first."""

    suites: tuple[CipherSuite, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class IkeChoice:
    """What was agreed of the peer's proposals: the number of one, its SPI, and algorithms."""

    number: int
    spi: bytes
    suite: CipherSuite
    prf: Prf
    group: Group

    def answer(self, spi: bytes) -> Proposal:
        """Return the responder's answer; spi is its own for a rekey, and else empty."""
        prf = Transform(TransformType.PRF, self.prf.value)
        transforms = (self.suite.encr, *integrity(self.suite), prf, self.group.transform)
        return Proposal(self.number, Protocol.IKE, spi, transforms)


def integrity(suite: CipherSuite) -> tuple[Transform, ...]:
    """Return the integrity transform of suite, if it has one: a combined mode has none (3.3)."""
    return () if suite.integ is None else (suite.integ,)


def offer(policy: IkePolicy, spi: bytes = b"") -> list[Proposal]:
    """Return what we propose for an IKE SA; spi is empty but for a rekey.

    Combined modes share one proposal, and each other suite has its own, since every encryption
    algorithm of a proposal goes with every integrity algorithm of it (3.3).
    """
    groups = tuple(group.transform for group in policy.groups)
    combined = tuple(suite.encr for suite in policy.suites if suite.combined)
    alternatives = [combined] if combined else []
    alternatives += [(s.encr, *integrity(s)) for s in policy.suites if not s.combined]
    return [
        Proposal(number, Protocol.IKE, spi, (*ciphers, *_PRF_TRANSFORMS, *groups))
        for number, ciphers in enumerate(alternatives, start=1)
    ]


def choose(
    proposals: Sequence[Proposal],
    policy: IkePolicy,
    spi_size: int = 0,
    preferred: Group | None = None,
) -> IkeChoice | None:
    """Return what we take of proposals, or None where nothing fits.

    Suites go by our own order, and so do groups, except that the one for which the peer has sent
    its public value already saves a round trip.
    """
    for suite in policy.suites:
        for proposal in proposals:
            if proposal.protocol != Protocol.IKE or len(proposal.spi) != spi_size:
                continue
            choice = _choose_of(proposal, suite, policy.groups, preferred)
            if choice is not None:
                return choice
    return None


def _choose_of(
    proposal: Proposal, suite: CipherSuite, groups: Sequence[Group], preferred: Group | None
) -> IkeChoice | None:
    if not offers_suite(proposal, suite) or any(
        t.type not in _KNOWN_TYPES for t in proposal.transforms
    ):
        return None
    prf = next((p for p, t in zip(_PRFS, _PRF_TRANSFORMS, strict=True) if proposal.has(t)), None)
    group = choose_group(proposal, groups, preferred)
    if prf is None or group is None:
        return None
    return IkeChoice(proposal.number, proposal.spi, suite, prf, group)


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
    choice = choose(answer, policy, spi_size)
    if choice is None or len(answer) != 1:
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
    # One transform of each type, and none besides (3.3.6).
    kinds = [t.type for t in answer[0].transforms]
    if len(set(kinds)) != len(kinds):
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that chooses nothing")
    return choice
