"""The hand-over from IKE to ESP: everything the data plane must know of one CHILD_SA."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from moatvpn.wire.selectors import TrafficSelector


class EspSuite(Enum):
    """A combined-mode algorithm for ESP. The value is its name in configuration.

    key_length and salt_length are in octets; salt is the tail of the keying material
    (RFC 4106, 8.1; RFC 7634, 2).
    """

    AES_256_GCM = "aes-256-gcm"  # RFC 4106, 16-octet ICV
    CHACHA20_POLY1305 = "chacha20-poly1305"  # RFC 7634

    @property
    def key_length(self) -> int:
        """Return the length of the cipher's key, without the salt."""
        return 32

    @property
    def salt_length(self) -> int:
        """Return the length of the salt that follows the key in the keying material."""
        return 4


@dataclass(frozen=True, slots=True)
class ChildSa:
    """One negotiated pair of ESP SAs, as IKE hands it to the data plane.

    connection is the connection's name; spi_in is ours, which the peer sends to; spi_out is the
    peer's. key_in and key_out are key plus salt and never leave memory (they are kept out of
    repr). local_ts and remote_ts are the negotiated selectors. udp says that envelopes travel in
    UDP port 4500.
    """

    connection: str
    spi_in: int
    spi_out: int
    suite: EspSuite
    esn: bool
    key_in: bytes = field(repr=False)
    key_out: bytes = field(repr=False)
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    udp: bool
