"""Negotiating a CHILD_SA: proposals, selectors and keys (RFC 7296, 2.7, 2.9 and 2.17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from moatvpn.config import ConnectionConfig
from moatvpn.crypto.keymat import child_keys
from moatvpn.errors import MoatError
from moatvpn.esp.child import ChildSa
from moatvpn.ike.additional import choose_additional, kems_of, offered
from moatvpn.ike.framing import Framing
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.proposal import choose_group, integrity, offers_suite, only_choice
from moatvpn.wire.algorithms import CipherSuite, Group, Kem
from moatvpn.wire.ike_proposal import (
    ADDITIONAL_TYPES,
    ESN_NO,
    ESN_YES,
    Proposal,
    Protocol,
    Transform,
    TransformType,
)
from moatvpn.wire.selectors import MOST_SELECTORS, TrafficSelector

# Ours and the peer's.
Selectors = tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was agreed of a proposal: its number, the sender's SPI, algorithms, and ESN.

    group is None where the exchange has no key exchange of its own; additional is as in IkeChoice.
    """

    number: int
    spi: int
    suite: CipherSuite
    esn: bool
    group: Group | None
    additional: tuple[Transform, ...] = ()

    @property
    def kems(self) -> tuple[Kem, ...]:
        """Return the methods of the additional key exchanges, in their order."""
        return kems_of(self.additional)

    def proposal(self, spi: int) -> Proposal:
        """Return the responder's answer, with its own SPI."""
        ke = () if self.group is None else (self.group.transform,)
        esn = ESN_YES if self.esn else ESN_NO
        transforms = (self.suite.encr, *integrity(self.suite), *ke, *self.additional, esn)
        return Proposal(self.number, Protocol.ESP, spi.to_bytes(4, "big"), transforms)


def rekey_groups(config: ConnectionConfig) -> tuple[Group, ...]:
    """Return the groups for a CHILD_SA that CREATE_CHILD_SA makes; none without PFS."""
    return config.groups if config.pfs else ()


def additional_ways(
    config: ConnectionConfig, groups: Sequence[Group], sa: IkeSa | None
) -> tuple[bool, ...]:
    """Return whether to go with additional key exchanges, best first: never without any.

    sa is the IKE SA where we ask: a peer that did without there need not be asked again.
    """
    asked = sa is None or (sa.choice is not None and bool(sa.choice.kems))
    return config.post_quantum.ways if groups and asked else (False,)


def offer(
    config: ConnectionConfig,
    spi: int,
    groups: Sequence[Group],
    ways: Sequence[bool] = (False,),
) -> list[Proposal]:
    """Return the initiator's proposals, one for each suite. groups are empty in IKE_AUTH."""
    ke = tuple(group.transform for group in groups)
    each = [(suite, offered(way)) for way in ways for suite in config.esp_suites]
    return [
        Proposal(
            number,
            Protocol.ESP,
            spi.to_bytes(4, "big"),
            (suite.encr, *integrity(suite), *ke, *additional, ESN_YES, ESN_NO),
        )
        for number, (suite, additional) in enumerate(each, start=1)
    ]


def choose(
    proposals: Sequence[Proposal],
    config: ConnectionConfig,
    groups: Sequence[Group],
    preferred: Group | None = None,
    ways: Sequence[bool] = (False,),
) -> Choice | None:
    """Return what we take of proposals, by our own order of suites; None where nothing fits.

    groups are those of which one has to be used; preferred is the one of the peer's KE payload;
    ways are those of additional_ways. A transform type that a proposal holds and we don't use makes
    it unusable (3.3.6).
    """
    for way in ways:
        for suite in config.esp_suites:
            for proposal in proposals:
                choice = _choose_of(proposal, suite, groups, preferred, way)
                if choice is not None:
                    return choice
    return None


def _choose_of(
    proposal: Proposal,
    suite: CipherSuite,
    groups: Sequence[Group],
    preferred: Group | None,
    with_kem: bool,
) -> Choice | None:
    if proposal.protocol != Protocol.ESP or not _usable(proposal, suite, bool(groups)):
        return None
    spi = int.from_bytes(proposal.spi, "big")
    group = choose_group(proposal, groups, preferred)
    additional = choose_additional(proposal, with_kem)
    if len(proposal.spi) != 4 or spi <= 255 or (groups and not group) or additional is None:
        return None
    return Choice(proposal.number, spi, suite, proposal.has(ESN_YES), group, additional)


def _usable(proposal: Proposal, suite: CipherSuite, with_ke: bool) -> bool:
    kinds = {t.type for t in proposal.transforms}
    known = {TransformType.ENCR, TransformType.INTEG, TransformType.ESN}
    if not kinds <= (known | {TransformType.KE, *ADDITIONAL_TYPES} if with_ke else known):
        return False
    esn = proposal.has(ESN_YES) or proposal.has(ESN_NO)
    return esn and offers_suite(proposal, suite)


def accept(
    answer: Sequence[Proposal],
    config: ConnectionConfig,
    groups: Sequence[Group],
    ways: Sequence[bool] = (False,),
) -> Choice:
    """Return what the responder took; raise PeerError where it is not one that we offered."""
    return only_choice(choose(answer, config, groups, ways=ways), answer)


@lru_cache(maxsize=64)
def configured(selectors: tuple[str, ...]) -> tuple[TrafficSelector, ...]:
    """Return configured networks as traffic selectors, the same objects for the same networks.

    All connections of a portal have one side in common, which is worth holding once.
    """
    return tuple(TrafficSelector.from_network(network) for network in selectors)


def pairs(config: ConnectionConfig) -> list[Selectors]:
    """Return each of our networks with each of the peer's of the same family, one pair each."""
    ours, theirs = configured(config.local_selectors), configured(config.remote_selectors)
    return [((a,), (b,)) for a in ours for b in theirs if a.start.version == b.start.version]


def narrow(
    wanted: Sequence[TrafficSelector], allowed: tuple[TrafficSelector, ...]
) -> tuple[TrafficSelector, ...]:
    """Return what both allow (2.9), without repetition, and no more than one payload can say.

    A responder may always narrow to less; what the peer wanted first comes first. Where that is
    all that is allowed, it is the very object.
    """
    found = (a.intersect(w) for w in wanted for a in allowed)
    both = tuple(dict.fromkeys(ts for ts in found if ts is not None))[:MOST_SELECTORS]
    return allowed if both == allowed else both


def build_child(
    sa: IkeSa,
    config: ConnectionConfig,
    choice: Choice,
    spi_in: int,
    selectors: Selectors,
    secrets: tuple[bytes, bytes, bytes],
    framing: Framing,
    we_initiated: bool,
    line: int = 0,
    more: bytes = b"",
) -> ChildSa:
    """Return the CHILD_SA of an exchange.

    selectors are ours and the peer's; secrets are the shared secret (empty without PFS) and the
    initiator's and responder's nonces; we_initiated is about this exchange, not the IKE SA; line is
    the one that it begins or goes on in; more is the secrets of additional key exchanges.
    """
    if sa.keys is None or sa.connection is None:
        raise MoatError("a CHILD_SA needs an authenticated IKE SA")
    shared, nonce_i, nonce_r = secrets
    length = choice.suite.material_length
    forward, backward = child_keys(sa.keys, shared, nonce_i, nonce_r, length, more)
    key_out, key_in = (forward, backward) if we_initiated else (backward, forward)
    return ChildSa(
        connection=sa.connection,
        spi_in=spi_in,
        spi_out=choice.spi,
        suite=choice.suite,
        esn=choice.esn,
        key_in=key_in,
        key_out=key_out,
        local_ts=selectors[0],
        remote_ts=selectors[1],
        udp=sa.nat,
        line=line,
        aggfrag=framing.aggfrag,
        unsplit=framing.unsplit,
        private_blocks=framing.private_blocks,
        tfc=config.hiding,
        tfc_padding=framing.tfc_padding,
    )
