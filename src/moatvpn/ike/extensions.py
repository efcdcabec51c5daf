"""What IKE_SA_INIT announces beyond RFC 7296: extensions that both sides have to support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.ike import ppk, redirect
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.proposal import IkePolicy
from moatvpn.wire.algorithms import Kem, PostQuantum
from moatvpn.wire.ike_payloads import Notify, NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.init import InitSecrets


def offer(sa: IkeSa, policy: IkePolicy) -> list[Notify]:
    """Return what an initiator announces."""
    connection = sa.context.connection_of(sa)
    redirects = connection.redirects.announce() if connection is not None else []
    return redirects + _supported(
        (NotifyType.IKEV2_FRAGMENTATION_SUPPORTED, True),
        (NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED, policy.post_quantum is not PostQuantum.OFF),
        (NotifyType.USE_PPK, connection is not None and connection.ppk is not None),
    )


def answer(sa: IkeSa, secrets: InitSecrets) -> list[Notify]:
    """Return what a responder announces: of what the initiator has announced, what is agreed."""
    return _supported(
        (NotifyType.IKEV2_FRAGMENTATION_SUPPORTED, sa.fragmentation),
        (NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED, bool(secrets.kems)),
        (NotifyType.USE_PPK, secrets.use_ppk),
    )


def supports_intermediate(notifies: Sequence[Notify]) -> bool:
    """Return whether the peer knows IKE_INTERMEDIATE (RFC 9242, 3.1)."""
    return NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED in {notify.type for notify in notifies}


def agree(
    sa: IkeSa, secrets: InitSecrets, kems: tuple[Kem, ...], notifies: Sequence[Notify]
) -> None:
    """Take in what the peer announces; kems are the additional key exchanges that are agreed on.

    Raises PeerError for an answer without what we cannot go on without.
    """
    kinds = {notify.type for notify in notifies}
    sa.redirectable = redirect.may_be_told(notifies)
    sa.fragmentation = NotifyType.IKEV2_FRAGMENTATION_SUPPORTED in kinds
    if kems and not supports_intermediate(notifies):
        raise PeerError(DropReason.IKE_NO_PROPOSAL, "ML-KEM without IKE_INTERMEDIATE")
    secrets.use_ppk = ppk.agreed(sa, NotifyType.USE_PPK in kinds)


def _supported(*extensions: tuple[NotifyType, bool]) -> list[Notify]:
    return [Notify(kind) for kind, supported in extensions if supported]
