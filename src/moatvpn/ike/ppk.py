"""Postquantum pre-shared keys (RFC 8784): a secret of both sides in SK_d, SK_pi and SK_pr.

    initiator                                             responder
    HDR, SAi1, KEi, Ni, N(USE_PPK) ---->
                            <----  HDR, SAr1, KEr, Nr, N(USE_PPK)
    HDR, SK{IDi, AUTH, ..., N(PPK_IDENTITY), [N(NO_PPK_AUTH)]} ---->
                            <----  HDR, SK{IDr, AUTH, ..., [N(PPK_IDENTITY)]}

NO_PPK_AUTH is a proof that goes without, from who does not require it: so PPKs can be rolled out
one box after the other. Who can break the key exchange already could keep such a pair from using
them; where it is required on both sides, nobody can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moatvpn.config import ConnectionConfig
from moatvpn.counters import DropReason
from moatvpn.crypto.keymat import with_ppk
from moatvpn.errors import MoatError, OperatorError
from moatvpn.ike.failure import Failure, FailureError, ProofError
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.secrets import ConnectionSecrets
from moatvpn.ike.task import Payloads, body_of, notifies_of
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, NotifyType, encode_auth, parse_auth

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.init import InitSecrets

_PPK_ID_FIXED = b"\x02"  # RFC 8784, 5.1: the rest is the same each time
_REMEDY = (
    "Give both sides the same ppk_id and secret, or set ppk_required to false while not all have it"
)


@dataclass(frozen=True, slots=True)
class Ppk:
    """One connection's PPK: the name that both sides know it by, and the secret."""

    identity: str
    secret: bytes = field(repr=False)
    required: bool

    @property
    def notify_data(self) -> bytes:
        """Return what PPK_IDENTITY holds."""
        return _PPK_ID_FIXED + self.identity.encode("ascii")


def ppk_for(config: ConnectionConfig, secrets: ConnectionSecrets) -> Ppk | None:
    """Return a connection's PPK, None for none; raise OperatorError where its secret is missing."""
    if config.ppk_id is None:
        return None
    if secrets.ppk is None:
        raise OperatorError(f"connection {config.name}", "has no PPK", "Give ppk_file")
    return Ppk(config.ppk_id, secrets.ppk, config.ppk_required)


def agreed(sa: IkeSa, announced: bool) -> bool:
    """Return whether both sides have announced USE_PPK; announced is what the peer has.

    Raises FailureError for an answer without it where we require it.
    """
    if not sa.initiator:
        return announced and sa.context.answering.ppks > 0
    connection = sa.context.connection_of(sa)
    ppk = connection.ppk if connection is not None else None
    if ppk is None:
        return False
    if ppk.required and not announced:
        failure = Failure("here", "the peer uses no PPK, which is required here", _REMEDY)
        raise FailureError(DropReason.IKE_AUTHENTICATION_FAILED, failure)
    return announced


def mix(sa: IkeSa, secrets: InitSecrets, ppk: Ppk) -> None:
    """Take the PPK into the keys that are not in use yet; the others stay as they are (3)."""
    if sa.keys is None:
        raise MoatError("a PPK before there are keys")
    secrets.keys_without = sa.keys
    sa.keys = with_ppk(sa.keys, ppk.secret)
    sa.ppk = True


# The initiator


def notifies(ppk: Ppk, proof_without: Payloads | None) -> list[tuple[int, bytes]]:
    """Return the notifies of the request; proof_without is a proof with the keys before mix."""
    told = [Notify(NotifyType.PPK_IDENTITY, ppk.notify_data)]
    for kind, body in proof_without or ():
        if kind == PayloadType.AUTH:
            told.append(Notify(NotifyType.NO_PPK_AUTH, parse_auth(body)[1]))
    return [(PayloadType.NOTIFY, notify.encode()) for notify in told]


def take_answer(
    connection: Connection, sa: IkeSa, secrets: InitSecrets, payloads: Sequence[RawPayload]
) -> None:
    """Take in whether the responder has used the PPK; raise ProofError where it has to have."""
    ppk = connection.ppk
    if ppk is None or secrets.keys_without is None:
        return
    if any(notify.type == NotifyType.PPK_IDENTITY for notify in notifies_of(payloads)):
        return
    if ppk.required:
        raise ProofError("the peer has not used the PPK, which is required here", _REMEDY)
    sa.keys, sa.ppk = secrets.keys_without, False


# The responder


def take_request(
    connection: Connection, sa: IkeSa, secrets: InitSecrets, payloads: Sequence[RawPayload]
) -> Sequence[RawPayload]:
    """Use the PPK that the initiator names; return the payloads with the AUTH that counts.

    That is the one of NO_PPK_AUTH, where we have no such PPK, and neither side requires one
    (table 1). Raises ProofError where that cannot be.
    """
    ppk, told = connection.ppk, notifies_of(payloads)
    if not secrets.use_ppk:
        if ppk is not None and ppk.required:
            raise ProofError("the peer uses no PPK, which is required here", _REMEDY)
        return payloads
    named = next((n.data for n in told if n.type == NotifyType.PPK_IDENTITY), None)
    if named is None:
        raise ProofError("the peer names no PPK", "Look at the peer's log: that is its fault")
    if ppk is not None and named == ppk.notify_data:
        mix(sa, secrets, ppk)
        return payloads
    without = next((n.data for n in told if n.type == NotifyType.NO_PPK_AUTH), None)
    auth = body_of(payloads, PayloadType.AUTH)
    if without is None or auth is None or (ppk is not None and ppk.required):
        raise ProofError("the peer uses a PPK that this connection has not", _REMEDY)
    # The method is still that of AUTH.
    counts = RawPayload(PayloadType.AUTH, False, encode_auth(parse_auth(auth)[0], without))
    return [counts if p.type == PayloadType.AUTH else p for p in payloads]


def answer(sa: IkeSa) -> list[tuple[int, bytes]]:
    """Return what tells the initiator that the PPK is used."""
    return [(PayloadType.NOTIFY, Notify(NotifyType.PPK_IDENTITY).encode())] if sa.ppk else []
