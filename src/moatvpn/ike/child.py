"""Negotiating a CHILD_SA: proposals, selectors and keys (RFC 7296, 2.7, 2.9 and 2.17)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moatvpn.config import ConnectionConfig
from moatvpn.counters import DropReason
from moatvpn.crypto.keymat import child_keys
from moatvpn.errors import MoatError, PeerError
from moatvpn.esp.child import ChildSa, EspSuite
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.ike_proposal import (
    ENCR_AES_GCM_16_256,
    ENCR_CHACHA20_POLY1305,
    ESN_NO,
    ESN_YES,
    KE_X25519,
    Proposal,
    Protocol,
    Transform,
    TransformType,
)
from moatvpn.wire.selectors import MOST_SELECTORS, TrafficSelector

# Ours and the peer's.
Selectors = tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]

_TRANSFORMS = {
    EspSuite.AES_256_GCM: ENCR_AES_GCM_16_256,
    EspSuite.CHACHA20_POLY1305: ENCR_CHACHA20_POLY1305,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What was agreed of a proposal: its number, the sender's SPI, algorithm, and ESN."""

    number: int
    spi: int
    suite: EspSuite
    esn: bool

    def proposal(self, spi: int, with_ke: bool) -> Proposal:
        """Return the responder's answer, with its own SPI."""
        ke = (KE_X25519,) if with_ke else ()
        transforms = (_TRANSFORMS[self.suite], *ke, ESN_YES if self.esn else ESN_NO)
        return Proposal(self.number, Protocol.ESP, spi.to_bytes(4, "big"), transforms)


def offer(config: ConnectionConfig, spi: int, with_ke: bool) -> list[Proposal]:
    """Return the initiator's proposals, one for each suite. with_ke: for a rekey, with PFS."""
    ke = (KE_X25519,) if with_ke else ()
    return [
        Proposal(
            number,
            Protocol.ESP,
            spi.to_bytes(4, "big"),
            (_TRANSFORMS[suite], *ke, ESN_YES, ESN_NO),
        )
        for number, suite in enumerate(config.esp_suites, start=1)
    ]


def choose(proposals: Sequence[Proposal], config: ConnectionConfig, with_ke: bool) -> Choice | None:
    """Return what we take of proposals, by our own order of suites; None where nothing fits.

    A transform type that a proposal holds and we don't use makes it unusable (3.3.6), so does a
    key exchange that we don't know.
    """
    for suite in config.esp_suites:
        for proposal in proposals:
            if proposal.protocol == Protocol.ESP and _usable(proposal, suite, with_ke):
                spi = int.from_bytes(proposal.spi, "big")
                if len(proposal.spi) == 4 and spi > 255:
                    return Choice(proposal.number, spi, suite, proposal.has(ESN_YES))
    return None


def _usable(proposal: Proposal, suite: EspSuite, with_ke: bool) -> bool:
    kinds = {t.type for t in proposal.transforms}
    known = {TransformType.ENCR, TransformType.ESN} | ({TransformType.KE} if with_ke else set())
    integrity: Iterable[Transform] = proposal.of_type(TransformType.INTEG)
    if not kinds <= known | {TransformType.INTEG} or any(t.id for t in integrity):
        return False
    if with_ke and not proposal.has(KE_X25519):
        return False
    esn = proposal.has(ESN_YES) or proposal.has(ESN_NO)
    return proposal.has(_TRANSFORMS[suite]) and esn


def accept(answer: Sequence[Proposal], config: ConnectionConfig, with_ke: bool) -> Choice:
    """Return what the responder took; raise PeerError where it is not one that we offered."""
    chosen = choose(answer, config, with_ke)
    if chosen is None or len(answer) != 1 or len(answer[0].of_type(TransformType.ESN)) != 1:
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
    return chosen


def configured(selectors: Sequence[str]) -> tuple[TrafficSelector, ...]:
    """Return configured networks as traffic selectors."""
    return tuple(TrafficSelector.from_network(network) for network in selectors)


def narrow(
    wanted: Sequence[TrafficSelector], allowed: Sequence[TrafficSelector]
) -> tuple[TrafficSelector, ...]:
    """Return what both allow (2.9), without repetition, and no more than one payload can say.

    A responder may always narrow to less; what the peer wanted first comes first.
    """
    found = (a.intersect(w) for w in wanted for a in allowed)
    return tuple(dict.fromkeys(ts for ts in found if ts is not None))[:MOST_SELECTORS]


def build_child(
    sa: IkeSa,
    config: ConnectionConfig,
    choice: Choice,
    spi_in: int,
    selectors: Selectors,
    secrets: tuple[bytes, bytes, bytes],
    we_initiated: bool,
) -> ChildSa:
    """Return the CHILD_SA of an exchange.

    selectors are ours and the peer's; secrets are the shared secret (empty without PFS) and the
    initiator's and responder's nonces; we_initiated is about this exchange, not the IKE SA.
    """
    if sa.keys is None or sa.connection is None:
        raise MoatError("a CHILD_SA needs an authenticated IKE SA")
    shared, nonce_i, nonce_r = secrets
    length = choice.suite.key_length + choice.suite.salt_length
    forward, backward = child_keys(sa.keys, shared, nonce_i, nonce_r, length)
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
    )
