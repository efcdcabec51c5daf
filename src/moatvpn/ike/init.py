"""IKE_SA_INIT (RFC 7296, 1.2), both roles.

initiator                                   responder
HDR, SAi1, KEi, Ni, N(NAT…) ------------>
                             <------------  HDR, SAr1, KEr, Nr, N(NAT…)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import GROUP_X25519, KeyExchange
from moatvpn.crypto.keymat import ike_keys
from moatvpn.crypto.nat import nat_detection_hash
from moatvpn.crypto.prf import Prf
from moatvpn.errors import PeerError
from moatvpn.ike.context import Context
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.state import State
from moatvpn.ike.task import body_of
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    KNOWN_PAYLOADS,
    NO_SPI,
    Exchange,
    IkeHeader,
    PayloadType,
    RawPayload,
    parse_chain,
)
from moatvpn.wire.ike_payloads import (
    HASH_IDENTITY,
    Notify,
    NotifyType,
    encode_ke,
    parse_ke,
    parse_nonce,
    parse_notify,
)
from moatvpn.wire.ike_proposal import (
    ENCR_AES_GCM_16_256,
    KE_X25519,
    PRF_HMAC_SHA2_256,
    PRF_HMAC_SHA2_512,
    Proposal,
    Protocol,
    TransformType,
    encode_proposals,
    parse_proposals,
)

HALF_OPEN_LIMIT = 500
HALF_OPEN_SECONDS = 10.0
NONCE_LENGTH = 32
_PRFS = (PRF_HMAC_SHA2_512, PRF_HMAC_SHA2_256)
_HASHES = HASH_IDENTITY.to_bytes(2, "big")


@dataclass(slots=True)
class InitSecrets:
    """What IKE_AUTH needs of IKE_SA_INIT: both messages and both nonces, as they were sent."""

    exchange: KeyExchange
    nonce_i: bytes
    nonce_r: bytes = b""
    request: bytes = b""
    response: bytes = b""


def offer(spi: bytes = b"") -> list[Proposal]:
    """Return what we propose for an IKE SA; spi is empty but for a rekey."""
    return [Proposal(1, Protocol.IKE, spi, (ENCR_AES_GCM_16_256, *_PRFS, KE_X25519))]


def choose(proposals: Sequence[Proposal], spi_size: int = 0) -> tuple[Proposal, Prf] | None:
    """Return the answer to proposals and its PRF, or None where none of them fits."""
    for proposal in proposals:
        integrity = proposal.of_type(TransformType.INTEG)
        prf = next((p for p in _PRFS if proposal.has(p)), None)
        if (
            proposal.protocol == Protocol.IKE
            and len(proposal.spi) == spi_size
            and proposal.has(ENCR_AES_GCM_16_256)
            and proposal.has(KE_X25519)
            and prf is not None
            and not any(t.id for t in integrity)
        ):
            taken = (ENCR_AES_GCM_16_256, prf, KE_X25519)
            return Proposal(proposal.number, Protocol.IKE, b"", taken), Prf(prf.id)
    return None


def start(
    context: Context,
    connection: str,
    local: Endpoint,
    remote: Endpoint,
    force_udp: bool,
    now: float,
) -> tuple[IkeSa, InitSecrets]:
    """Begin an IKE SA as its initiator: send the request."""
    spi = context.new_ike_spi()
    sa = IkeSa(context, True, State.INIT_SENT, spi, NO_SPI, local, remote, connection)
    context.ike_sas[spi] = sa
    sa.nat = force_udp
    secrets = InitSecrets(KeyExchange(context.random(32)), context.random(NONCE_LENGTH))
    secrets.request = request_octets(sa, secrets, force_udp, b"")
    sa.transmit(secrets.request, None, now)
    return sa, secrets


def request_octets(sa: IkeSa, secrets: InitSecrets, force_udp: bool, cookie: bytes) -> bytes:
    """Return the request; cookie is what the responder asked us to repeat (2.6)."""
    body: list[tuple[int, bytes]] = []
    if cookie:
        body.append((PayloadType.NOTIFY, Notify(NotifyType.COOKIE, cookie).encode()))
    body += [
        (PayloadType.SA, encode_proposals(offer())),
        (PayloadType.KE, encode_ke(GROUP_X25519, secrets.exchange.public)),
        (PayloadType.NONCE, secrets.nonce_i),
        *_notifies(sa, force_udp),
    ]
    return sa.plain(Exchange.IKE_SA_INIT, False, body)


def _notifies(sa: IkeSa, force_udp: bool) -> list[tuple[int, bytes]]:
    # A source hash that cannot match makes the peer see a NAT, and so use UDP (2.23).
    source = bytes(20) if force_udp else nat_detection_hash(sa.spi_i, sa.spi_r, sa.local)
    destination = nat_detection_hash(sa.spi_i, sa.spi_r, sa.remote)
    return [
        (PayloadType.NOTIFY, Notify(NotifyType.NAT_DETECTION_SOURCE_IP, source).encode()),
        (PayloadType.NOTIFY, Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, destination).encode()),
        (PayloadType.NOTIFY, Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, _HASHES).encode()),
    ]


def _nat_between(sa: IkeSa, notifies: Sequence[Notify]) -> bool:
    sources = [n.data for n in notifies if n.type == NotifyType.NAT_DETECTION_SOURCE_IP]
    targets = [n.data for n in notifies if n.type == NotifyType.NAT_DETECTION_DESTINATION_IP]
    spi_r = sa.spi_r
    if not sa.initiator:
        spi_r = NO_SPI  # the request was hashed before the responder had chosen its SPI
    if sources and nat_detection_hash(sa.spi_i, spi_r, sa.remote) not in sources:
        return True
    return bool(targets) and nat_detection_hash(sa.spi_i, spi_r, sa.local) not in targets


def _required(payloads: Sequence[RawPayload]) -> tuple[bytes, bytes, bytes]:
    bodies = [body_of(payloads, k) for k in (PayloadType.SA, PayloadType.KE, PayloadType.NONCE)]
    proposals, key, nonce = bodies
    if proposals is None or key is None or nonce is None:
        raise PeerError(DropReason.IKE_MALFORMED, "IKE_SA_INIT lacks SA, KE or Nonce")
    return proposals, key, parse_nonce(nonce)


def notifies_of(payloads: Sequence[RawPayload]) -> list[Notify]:
    """Return all notifies among payloads."""
    return [parse_notify(p.body) for p in payloads if p.type == PayloadType.NOTIFY]


def respond(context: Context, header: IkeHeader, datagram: Datagram, now: float) -> None:
    """Answer an IKE_SA_INIT request. The same request again gets the same answer again."""
    remote = datagram.remote
    key = (header.spi_i, remote.host, remote.port)
    known = context.half_open.get(key)
    if known is not None:
        if known.cached_response is not None:
            known.send(known.cached_response)
        return
    payloads = parse_chain(header.next_payload, datagram.data[HEADER_LENGTH:])
    if header.message_id or header.response or not header.from_initiator:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "IKE_SA_INIT out of order")
    if len(context.half_open) >= HALF_OPEN_LIMIT:
        raise PeerError(DropReason.IKE_HALF_OPEN_LIMIT)
    if any(p.critical and p.type not in KNOWN_PAYLOADS for p in payloads):
        raise PeerError(DropReason.IKE_CRITICAL_PAYLOAD)
    body, ke, nonce_i = _required(payloads)
    sa = IkeSa(context, False, State.HALF_OPEN, header.spi_i, NO_SPI, datagram.local, remote)
    chosen = choose(parse_proposals(body))
    group, public = parse_ke(ke)
    if chosen is None or group != GROUP_X25519:
        refusal = Notify(NotifyType.NO_PROPOSAL_CHOSEN)
        if chosen is not None:
            refusal = Notify(NotifyType.INVALID_KE_PAYLOAD, GROUP_X25519.to_bytes(2, "big"))
        sa.send(sa.plain(Exchange.IKE_SA_INIT, True, [(PayloadType.NOTIFY, refusal.encode())]))
        raise PeerError(DropReason.IKE_NO_PROPOSAL, f"group {group}")
    nonce_r = context.random(NONCE_LENGTH)
    secrets = InitSecrets(KeyExchange(context.random(32)), nonce_i, nonce_r)
    shared = secrets.exchange.shared_secret(public)
    sa.spi_r = context.new_ike_spi()
    sa.nat = _nat_between(sa, notifies_of(payloads))
    sa.set_keys(ike_keys(chosen[1], shared, nonce_i, nonce_r, sa.spi_i, sa.spi_r))
    answer = [
        (PayloadType.SA, encode_proposals([chosen[0]])),
        (PayloadType.KE, encode_ke(GROUP_X25519, secrets.exchange.public)),
        (PayloadType.NONCE, nonce_r),
        *_notifies(sa, False),
    ]
    secrets.request = datagram.data
    secrets.response = sa.cached_response = sa.plain(Exchange.IKE_SA_INIT, True, answer)
    sa.expected_request = 1
    context.ike_sas[sa.spi_r] = sa
    context.half_open[key] = sa
    context.init_secrets[sa.spi_r] = secrets
    sa.close_at(now + HALF_OPEN_SECONDS)
    sa.send(sa.cached_response)


def complete(sa: IkeSa, secrets: InitSecrets, header: IkeHeader, data: bytes) -> bytes | None:
    """Take the response, as the initiator: derive the keys.

    Returns a cookie that the request must be repeated with, or None where the keys stand.
    Raises PeerError for anything else; nothing in clear may end the attempt, so the caller counts
    it and keeps retransmitting (2.21.1).
    """
    payloads = parse_chain(header.next_payload, data[HEADER_LENGTH:])
    notifies = notifies_of(payloads)
    for notify in notifies:
        if notify.type == NotifyType.COOKIE and 1 <= len(notify.data) <= 64:
            return notify.data
        if notify.is_error:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, f"refused with notify {notify.type}")
    body, ke, nonce_r = _required(payloads)
    answer = parse_proposals(body)
    chosen = choose(answer)
    group, public = parse_ke(ke)
    if chosen is None or len(answer) != 1 or group != GROUP_X25519 or header.spi_r == NO_SPI:
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "answer that we did not offer")
    shared = secrets.exchange.shared_secret(public)
    sa.spi_r = header.spi_r
    secrets.nonce_r, secrets.response = nonce_r, data
    sa.nat = sa.nat or _nat_between(sa, notifies)
    sa.set_keys(ike_keys(chosen[1], shared, secrets.nonce_i, nonce_r, sa.spi_i, sa.spi_r))
    return None
