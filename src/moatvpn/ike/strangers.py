"""The first look at a message that belongs to no IKE SA of ours: a few comparisons, no state.

    stranger                        we, under load
    HDR, SAi1, KEi, Ni  ---------->
                        <----------  HDR, N(COOKIE)          (RFC 7296, 2.6)
    HDR, N(COOKIE), SAi1, KEi, Ni ->
                        <----------  HDR, SAr1, KEr, Nr

Whoever asks first passes a gate that counts by address, in constant memory. Under load what
passes is answered with a cookie, at the cost of one MAC and an answer shorter than the request.
A good cookie proves the address: from then on it has a rate that no forger can use up, and may
cost us a key exchange.
"""

from __future__ import annotations

from moatvpn.counters import DropReason
from moatvpn.ike.context import Context
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_first import (
    MAX_FIRST_LENGTH,
    FirstRequest,
    cookie_answer,
    first_request,
    is_other_version,
)


def admits(context: Context, datagram: Datagram, now: float) -> bool:
    """Return whether a message about no IKE SA of ours is to be taken in.

    Where it is not it has been counted, and a first request may have been answered by a cookie.
    """
    request = first_request(datagram.data)
    if request is not None and context.may_be_called_from(datagram.remote.host):
        reason = _refusal(context, request, datagram, now)
    elif context.gate.unknown.allows(now):
        reason = None
    elif request is not None:
        reason = DropReason.IKE_UNKNOWN_PEER
    elif is_other_version(datagram.data):
        reason = DropReason.IKE_VERSION
    else:
        reason = DropReason.IKE_UNKNOWN_SPI
    if reason is not None:
        context.counters.drop(reason)
    return reason is None


def _refusal(
    context: Context, request: FirstRequest, datagram: Datagram, now: float
) -> DropReason | None:
    """Return why a first request is not taken in now, or None where it is."""
    if len(datagram.data) > MAX_FIRST_LENGTH:
        return DropReason.IKE_MALFORMED
    gate, cookies, host = context.gate, context.cookies, datagram.remote.host
    spi_i, nonce, cookie = request
    if cookie and cookies.good(cookie, nonce, host, spi_i, now):
        return None if gate.allows_proved(host, now) else DropReason.IKE_RATE_LIMIT
    if not gate.allows(host, now):
        return DropReason.IKE_RATE_LIMIT
    if _is_repeated(context, spi_i, datagram):
        return None
    if len(context.half_open) < gate.limits.cookies_above and gate.without_cookie.allows(now):
        return None
    answer = cookie_answer(datagram.data, cookies.make(nonce, host, spi_i, now))
    if not nonce or len(answer) > len(datagram.data):
        return DropReason.IKE_MALFORMED  # some payload is missing: we answer nobody with more
    context.outbox.append(Datagram(answer, datagram.local, datagram.remote))
    return DropReason.IKE_COOKIE_NEEDED


def _is_repeated(context: Context, spi_i: bytes, datagram: Datagram) -> bool:
    """Return whether we have answered this very request: the same answer costs nothing."""
    known = context.half_open.get(spi_i, datagram.remote.host, datagram.remote.port)
    secrets = context.init_secrets.get(known.spi_r) if known is not None else None
    return secrets is not None and secrets.request == datagram.data
