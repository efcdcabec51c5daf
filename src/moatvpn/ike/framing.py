"""Agreeing on how raw packets go into a CHILD_SA's envelopes, anew for each one.

HDR, SK{..., SA, N(USE_AGGFRAG), N(MOAT_FEATURES), TSi, TSr} ---->
                    <----  HDR, SK{..., SA, N(USE_AGGFRAG), N(MOAT_FEATURES), TSi, TSr}

AGGFRAG (RFC 9347, 5.1) is in use where both messages have the notify. Ours asks for nothing; a
peer's that is malformed or asks for what we don't do counts as none. In a response that comes too
late, for the peer goes by it already: so we replace that CHILD_SA at once, and offer AGGFRAG no
more. A peer may say besides that it takes no padding for traffic-flow confidentiality (RFC 7296,
1.3.1); we take it, and never say so. Where we are to hide our traffic and the peer takes nothing
that could hide it, there is no CHILD_SA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from moatvpn.config import ConnectionConfig
from moatvpn.errors import PeerError
from moatvpn.ike.context import Context
from moatvpn.ike.failure import UnhiddenError
from moatvpn.ike.task import notifies_of
from moatvpn.wire.ike_aggfrag import (
    PRIVATE_BLOCKS,
    parse_private_features,
    parse_use_aggfrag,
    private_features,
    use_aggfrag,
)
from moatvpn.wire.ike_header import PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection


class Framing(NamedTuple):
    """What is agreed on for one CHILD_SA: the fields of ChildSa of these names.

    refused: what the peer says of AGGFRAG counts as none.
    """

    aggfrag: bool = False
    unsplit: bool = False
    private_blocks: bool = False
    tfc_padding: bool = True
    refused: bool = False


def offer(context: Context, connection: Connection) -> list[tuple[int, bytes]]:
    """Return what our request for a CHILD_SA offers."""
    wanted = _wanted(context, connection.config) and not connection.children.plain
    return answer(Framing(aggfrag=wanted, private_blocks=wanted))


def answered(context: Context, connection: Connection, payloads: Sequence[RawPayload]) -> Framing:
    """Return what is agreed on, by the peer's response; what we did not offer is passed over.

    Where it is refused, the CHILD_SA carries nothing from the peer and is to be rekeyed. Raises
    UnhiddenError.
    """
    offered = not connection.children.plain
    framing = settle(context, connection.config, payloads, offered)
    connection.children.plain |= framing.refused
    return framing


def settle(
    context: Context, config: ConnectionConfig, payloads: Sequence[RawPayload], may: bool = True
) -> Framing:
    """Return what is agreed on, by the peer's message; without AGGFRAG unless we may use it.

    Raises UnhiddenError where that hides less than is asked for.
    """
    notifies = notifies_of(payloads)
    may = may and _wanted(context, config)
    framing = _aggfrag(context, config, notifies) if may else Framing()
    if any(n.type == NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED for n in notifies):
        framing = framing._replace(tfc_padding=False)
    _check_hiding(config, framing)
    return framing


def _check_hiding(config: ConnectionConfig, framing: Framing) -> None:
    hiding = config.hiding
    if hiding.asked_for and not (hiding.constant or framing.aggfrag or framing.tfc_padding):
        what = "the peer takes neither AGGFRAG nor padding, so that tfc pad would hide nothing"
        raise UnhiddenError(what, "Have the peer take one of them, or set tfc to off here")
    if hiding.constant and (framing.unsplit or not framing.aggfrag):
        how = "unsplit packets only" if framing.unsplit else "no AGGFRAG"
        what = f"the peer takes {how}, and tfc constant cuts packets up to fit its envelopes"
        raise UnhiddenError(what, "Have the peer take AGGFRAG, or set tfc to pad or off here")


def _aggfrag(context: Context, config: ConnectionConfig, notifies: Sequence[Notify]) -> Framing:
    offered = [n for n in notifies if n.type == NotifyType.USE_AGGFRAG]
    if not offered:
        return Framing()
    try:
        unsplit = True in {parse_use_aggfrag(notify) for notify in offered}
    except PeerError as error:
        context.counters.drop(error.reason)
        context.notice(config.name, "warning", f"without AGGFRAG: {error.detail}")
        return Framing(refused=True)
    features = [parse_private_features(n) for n in notifies if n.type == NotifyType.MOAT_FEATURES]
    return Framing(True, unsplit, any(bits & PRIVATE_BLOCKS for bits in features))


def answer(framing: Framing) -> list[tuple[int, bytes]]:
    """Return what our response says of what is agreed on."""
    notifies = [use_aggfrag()] if framing.aggfrag else []
    notifies += [private_features(PRIVATE_BLOCKS)] if framing.private_blocks else []
    return [(PayloadType.NOTIFY, notify.encode()) for notify in notifies]


def _wanted(context: Context, config: ConnectionConfig) -> bool:
    return context.abilities.aggfrag and config.aggfrag == "auto"
