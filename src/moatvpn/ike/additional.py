"""Additional key exchanges in proposals (RFC 9370, 2.2.2): transform types ADDKE1 to ADDKE7.

What is agreed there runs one by one, in IKE_INTERMEDIATE exchanges for a new IKE SA and in
IKE_FOLLOWUP_KE exchanges for a rekey, and goes into the keys beside the first exchange's.
"""

from __future__ import annotations

from collections.abc import Sequence

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.ike.task import body_of
from moatvpn.wire.algorithms import Kem
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import parse_ke
from moatvpn.wire.ike_proposal import ADDITIONAL_TYPES, NO_METHOD, Proposal, Transform


def offered(with_kem: bool) -> tuple[Transform, ...]:
    """Return the transforms that a proposal has for additional key exchanges."""
    kind = ADDITIONAL_TYPES[0]
    return tuple(Transform(kind, kem.number) for kem in Kem) if with_kem else ()


def choose_additional(proposal: Proposal, with_kem: bool) -> tuple[Transform, ...] | None:
    """Return what we take of a proposal, one transform of each type that it has; None for nothing.

    With with_kem at least one is a method, else all are NONE. No method is used twice.
    """
    taken: list[Transform] = []
    for kind in ADDITIONAL_TYPES:
        methods = {t.id for t in proposal.transforms if t.type == kind}
        if not methods:
            continue
        used = {t.id for t in taken}
        ours = [kem.number for kem in Kem if with_kem and kem.number in methods - used]
        if not ours and NO_METHOD not in methods:
            return None
        taken.append(Transform(kind, ours[0] if ours else NO_METHOD))
    return tuple(taken) if bool(kems_of(taken)) is with_kem else None


def kems_of(transforms: list[Transform] | tuple[Transform, ...]) -> tuple[Kem, ...]:
    """Return the methods among chosen transforms, in the order in which they run."""
    methods = (Kem.by_number(t.id) for t in transforms if t.type in ADDITIONAL_TYPES)
    return tuple(kem for kem in methods if kem is not None)


def public_value(payloads: Sequence[RawPayload], kem: Kem) -> bytes:
    """Return the public value of the key exchange whose turn it is; PeerError for any other."""
    ke = body_of(payloads, PayloadType.KE)
    number, public = parse_ke(ke) if ke is not None else (None, b"")
    if number != kem.number:
        raise PeerError(DropReason.IKE_MALFORMED, f"key exchange {number} out of turn")
    return public
