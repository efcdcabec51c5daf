"""Named counters for everything that is dropped.

Every drop goes through Counters.drop, so that no packet disappears without a reason.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum


class DropReason(Enum):
    """Why a packet or message was dropped. The value is the counter's public name."""

    # ESP, inbound (RFC 4303, 3.4)
    ESP_TOO_SHORT = "esp-too-short"
    ESP_UNKNOWN_SPI = "esp-unknown-spi"
    ESP_REPLAYED = "esp-replayed"
    ESP_NOT_AUTHENTIC = "esp-not-authentic"
    ESP_BAD_PADDING = "esp-bad-padding"
    ESP_BAD_NEXT_HEADER = "esp-bad-next-header"
    ESP_INNER_MALFORMED = "esp-inner-malformed"
    ESP_INNER_SELECTOR = "esp-inner-selector"
    ESP_AGGFRAG_MALFORMED = "esp-aggfrag-malformed"  # RFC 9347, 6.1
    ESP_INCOMPLETE = "esp-incomplete"  # raw packets, a part of which never came
    ESP_INNER_ECN = "esp-inner-ecn"  # RFC 6040: congestion experienced on a not-ECT packet
    ESP_OVER_SHARE = "esp-over-share"  # more than its part of what we can work on
    ESP_BAD_OFFLOAD = "esp-bad-offload"  # a super-packet with an unsound virtio header
    # ESP, outbound
    OUT_MALFORMED = "out-malformed"
    OUT_NO_POLICY = "out-no-policy"
    OUT_NO_SA = "out-no-sa"
    OUT_SA_EXHAUSTED = "out-sa-exhausted"
    OUT_OVER_SHARE = "out-over-share"  # more than its part of what we can work on
    OUT_QUEUE_FULL = "out-queue-full"  # more than the tunnel's constant rate takes
    OUT_SEND_FAILED = "out-send-failed"
    OUT_TOO_LARGE = "out-too-large"  # not to be fragmented, and more than the interface carries
    # IKE (RFC 7296)
    IKE_MALFORMED = "ike-malformed"
    IKE_VERSION = "ike-version"
    IKE_UNKNOWN_SPI = "ike-unknown-spi"
    IKE_NOT_AUTHENTIC = "ike-not-authentic"
    IKE_UNEXPECTED_MESSAGE_ID = "ike-unexpected-message-id"
    IKE_UNEXPECTED_EXCHANGE = "ike-unexpected-exchange"
    IKE_UNKNOWN_PEER = "ike-unknown-peer"
    IKE_AUTHENTICATION_FAILED = "ike-authentication-failed"
    IKE_NO_PROPOSAL = "ike-no-proposal"
    IKE_HALF_OPEN_LIMIT = "ike-half-open-limit"
    IKE_COOKIE_NEEDED = "ike-cookie-needed"  # answered with a cookie (RFC 7296, 2.6)
    IKE_RATE_LIMIT = "ike-rate-limit"  # more first requests than an address, or all, may send
    IKE_CRITICAL_PAYLOAD = "ike-critical-payload"
    IKE_REDIRECTED = "ike-redirected"  # RFC 5685
    IKE_TICKET_REFUSED = "ike-ticket-refused"  # RFC 5723
    IKE_CROSSED_CALL = "ike-crossed-call"
    IKE_AGGFRAG_REFUSED = "ike-aggfrag-refused"  # RFC 9347, 5.1: malformed, or asks too much
    # fragments of IKE messages (RFC 7383)
    IKE_FRAGMENT_UNEXPECTED = "ike-fragment-unexpected"
    IKE_FRAGMENT_REPEATED = "ike-fragment-repeated"
    IKE_FRAGMENT_LIMIT = "ike-fragment-limit"
    IKE_COOKIE2 = "ike-cookie2"  # RFC 4555, 3.7: a return routability check gone wrong
    IKE_ADDRESSES_REFUSED = "ike-addresses-refused"  # RFC 4555, 3.5, 3.9
    # drivers
    WILD_OVERSIZE = "wild-oversize"
    WILD_MALFORMED = "wild-malformed"
    WILD_OVERFLOW = "wild-overflow"  # the kernel's queue of a socket of ours was full
    TUN_WRITE_FAILED = "tun-write-failed"
    LOG_OVERFLOW = "log-overflow"


class Counters:
    """How often each reason has struck since the start."""

    def __init__(self) -> None:
        self._drops: Counter[DropReason] = Counter()

    def drop(self, reason: DropReason, number: int = 1) -> None:
        """Count one drop, or so many."""
        self._drops[reason] += number

    def value(self, reason: DropReason) -> int:
        """Return how often reason has struck."""
        return self._drops[reason]

    def take(self) -> dict[DropReason, int]:
        """Return every non-zero counter, and begin again at zero."""
        taken, self._drops = self._drops, Counter()
        return {reason: number for reason, number in taken.items() if number}

    def snapshot(self) -> dict[str, int]:
        """Return every non-zero counter by its public name, in the order of DropReason."""
        return {reason.value: self._drops[reason] for reason in DropReason if self._drops[reason]}
