"""IKE_INTERMEDIATE (RFC 9242): additional key exchanges (RFC 9370, 2.2.3) before IKE_AUTH.

    initiator                                responder
    HDR, SAi1, KEi(0), Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED) ---->
    <----  HDR, SAr1, KEr(0), Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED)
    HDR, SK{KEi(1)} ---->
                             <----  HDR, SK{KEr(1)}
    HDR, SK{IDi, AUTH, ...} ---->                          with keys of both exchanges

Each exchange is protected with the keys before it. That nobody has changed one is shown by AUTH,
which covers them all, as if none had been sealed or cut into fragments (RFC 9242, 3.3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.crypto.kex import KeyExchange, answer_key_exchange, new_key_exchange
from moatvpn.crypto.keymat import Seed, rekeyed_ike_keys
from moatvpn.errors import MoatError, PeerError
from moatvpn.ike import auth
from moatvpn.ike.additional import public_value
from moatvpn.ike.fragmentation import Opened
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.init import InitSecrets
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, PlainTask, notifies_of
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    Exchange,
    PayloadType,
    RawPayload,
    encode_chain,
    unsealed,
)
from moatvpn.wire.ike_payloads import encode_ke

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection


def proceed(connection: Connection, sa: IkeSa, secrets: InitSecrets, now: float) -> None:
    """Go on as the initiator: with the next additional key exchange, or with IKE_AUTH."""
    if secrets.kems:
        sa.start(IntermediateTask(connection, sa, secrets), now)
    else:
        sa.move(State.AUTH_SENT)
        sa.start(auth.AuthTask(connection, sa, secrets), now)


class IntermediateTask(PlainTask):
    """One additional key exchange as its initiator. heard: the response, before complete."""

    exchange = Exchange.IKE_INTERMEDIATE

    def __init__(self, connection: Connection, sa: IkeSa, secrets: InitSecrets) -> None:
        self._connection = connection
        self._sa = sa
        self._secrets = secrets
        self._kem = secrets.kems[0]
        self._key: KeyExchange = new_key_exchange(self._kem, sa.context.random)
        self._said = b""
        self.heard = b""

    def build(self, now: float) -> Payloads:
        """Return the request's payloads."""
        body = [(PayloadType.KE, encode_ke(self._kem.number, self._key.public))]
        self._said = _said(self._sa, self._sa.next_request, body)
        return body

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Derive the next keys, and go on."""
        error = next((n.type for n in notifies_of(payloads) if n.is_error), None)
        if error is not None:
            raise PeerError(DropReason.IKE_NO_PROPOSAL, f"refused with notify {error}")
        public = public_value(payloads, self._kem)
        _take(self._sa, self._secrets, (self._said, self.heard), self._key.shared_secret(public))
        proceed(self._connection, self._sa, self._secrets, now)


def require_done(sa: IkeSa) -> None:
    """Raise PeerError where an initiator comes to IKE_AUTH without what IKE_SA_INIT agreed on."""
    secrets = sa.context.init_secrets.get(sa.spi_r)
    if secrets is not None and secrets.kems:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "IKE_AUTH before IKE_INTERMEDIATE")


def respond(sa: IkeSa, opened: Opened, payloads: Sequence[RawPayload], message_id: int) -> None:
    """Answer one additional key exchange, the next that IKE_SA_INIT has agreed on."""
    secrets = sa.context.init_secrets.get(sa.spi_r)
    if secrets is None or not secrets.kems:
        raise PeerError(DropReason.IKE_UNEXPECTED_EXCHANGE, "IKE_INTERMEDIATE not agreed on")
    kem = secrets.kems[0]
    public, shared = answer_key_exchange(kem, public_value(payloads, kem), sa.context.random)
    body = [(PayloadType.KE, encode_ke(kem.number, public))]
    said = _said(sa, message_id, body)
    sa.respond(Exchange.IKE_INTERMEDIATE, message_id, body)
    _take(sa, secrets, (opened.unsealed, said), shared)


def _said(sa: IkeSa, message_id: int, body: Payloads) -> bytes:
    """Return what AUTH covers of a message of ours."""
    first, chain = encode_chain(body)
    length = HEADER_LENGTH + GENERIC_LENGTH + len(chain)
    message = (Exchange.IKE_INTERMEDIATE, message_id, not sa.initiator)
    head = sa.header(PayloadType.SK, *message, length)
    return unsealed(head + bytes((first, 0, 0, 0)), chain)


def _take(sa: IkeSa, secrets: InitSecrets, messages: tuple[bytes, bytes], shared: bytes) -> None:
    """Take one exchange, request and response, into what AUTH covers, and its secret into the keys.

    IntAuth is computed with the keys before it (RFC 9242, 3.3.2), and SKEYSEED from SK_d
    (RFC 9370, 2.2.3), by the same formula as that of a rekey.
    """
    keys, choice = sa.keys, sa.choice
    if keys is None or choice is None:
        raise MoatError("IKE_INTERMEDIATE before there are keys")
    secrets.int_auth_i = keys.prf.compute(keys.sk_pi, secrets.int_auth_i + messages[0])
    secrets.int_auth_r = keys.prf.compute(keys.sk_pr, secrets.int_auth_r + messages[1])
    secrets.rounds += 1
    secrets.kems = secrets.kems[1:]
    seed = Seed(secrets.nonce_i, secrets.nonce_r, sa.spi_i, sa.spi_r)
    sa.replace_keys(rekeyed_ike_keys(choice.prf, choice.suite, keys, shared, seed))
