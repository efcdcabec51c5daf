"""One direction of a CHILD_SA each: key, counter, window (RFC 4303)."""

from __future__ import annotations

import struct
from typing import NoReturn

from moatvpn.counters import DropReason
from moatvpn.crypto.aead import ICV_LENGTH, IV_LENGTH, NotAuthentic, new_aead
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.replay import ReplayWindow
from moatvpn.esp.selectors import Matcher
from moatvpn.wire.endpoint import Endpoint

_HEADER = struct.Struct("!II")
_IV = struct.Struct("!Q")
_ESN_AAD = struct.Struct("!IQ")
ESP_HEADER = _HEADER.size
MIN_LENGTH = ESP_HEADER + IV_LENGTH + 4 + ICV_LENGTH
_TRAILERS = [
    bytes(range(1, pad + 1)) + bytes((pad,)) for pad in range(4)
]  # padding 1, 2, 3 and its length; the next header follows (2.4)

LAST_SEQUENCE = (1 << 32) - 1
# With extended numbers the end is set by the cipher: far more packets than that under one key
# would spend AES-GCM's margin (RFC 8221, 5 points to the limits of the mode).
LAST_EXTENDED_SEQUENCE = 1 << 40
SOFT_PART = 0.75


class OutboundSa:
    """Encrypts, with the sequence number as the IV.

    Only this object moves the number: no nonce can come twice, because there is neither a copy of
    it nor a way back.
    """

    __slots__ = (
        "_aead", "_esn", "_last", "_salt", "_sequence", "_soft",
        "child", "octets", "peer", "reported", "udp",
    )  # fmt: skip

    def __init__(self, child: ChildSa, peer: Endpoint) -> None:
        self.child = child
        self.peer = peer
        self.udp = child.udp
        self.octets = 0
        self.reported = False  # whether a rekey has been asked for
        self._aead, self._salt = new_aead(child.suite, child.key_out)
        self._esn = child.esn
        self._last = LAST_EXTENDED_SEQUENCE if child.esn else LAST_SEQUENCE
        self._soft = int(self._last * SOFT_PART)
        self._sequence = 0

    def __copy__(self) -> NoReturn:
        raise TypeError("an outbound SA cannot be copied: nonces would come twice")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce__(self) -> NoReturn:
        self.__copy__()

    @property
    def sequence(self) -> int:
        """Return the number of the last packet."""
        return self._sequence

    @property
    def wants_rekey(self) -> bool:
        """Return whether the soft limit is behind us."""
        return self._sequence > self._soft

    def encrypt(self, packet: bytes, next_header: int) -> bytes:
        """Return the ESP packet that holds packet; raise PeerError at the end of the numbers."""
        sequence = self._sequence + 1
        if sequence > self._last:
            raise PeerError(DropReason.OUT_SA_EXHAUSTED)
        self._sequence = sequence
        header = _HEADER.pack(self.child.spi_out, sequence & LAST_SEQUENCE)
        iv = _IV.pack(sequence)
        plaintext = packet + _TRAILERS[-(len(packet) + 2) % 4] + bytes((next_header,))
        associated = _ESN_AAD.pack(self.child.spi_out, sequence) if self._esn else header
        self.octets += len(packet)
        return header + iv + self._aead.encrypt(self._salt + iv, plaintext, associated)


class InboundSa:
    """Decrypts, once each (RFC 4303, 3.4)."""

    __slots__ = (
        "_aead", "_esn", "_salt", "child", "octets", "packets", "peer", "selectors", "window",
    )  # fmt: skip

    def __init__(self, child: ChildSa, peer: Endpoint) -> None:
        self.child = child
        self.peer = peer
        self.window = ReplayWindow()
        self.selectors = Matcher(child.remote_ts, child.local_ts)
        self.packets = self.octets = 0
        self._aead, self._salt = new_aead(child.suite, child.key_in)
        self._esn = child.esn

    def decrypt(self, data: bytes) -> tuple[bytes, int, bool]:
        """Return the payload without padding, its next header, and whether it is the newest.

        Raises PeerError for a replay, a packet that is not authentic, and wrong padding.
        """
        sequence = int.from_bytes(data[4:8], "big")
        window = self.window
        if self._esn:
            sequence = window.extend(sequence)
        if not window.check(sequence):
            raise PeerError(DropReason.ESP_REPLAYED, f"sequence number {sequence}")
        associated = _ESN_AAD.pack(self.child.spi_in, sequence) if self._esn else data[:ESP_HEADER]
        start = ESP_HEADER + IV_LENGTH
        try:
            plaintext = self._aead.decrypt(
                self._salt + data[ESP_HEADER:start], data[start:], associated
            )
        except NotAuthentic as error:
            raise PeerError(DropReason.ESP_NOT_AUTHENTIC) from error
        newest = window.commit(sequence)
        padding, next_header = plaintext[-2], plaintext[-1]
        end = len(plaintext) - 2 - padding
        if end < 0 or plaintext[end:-2] != bytes(range(1, padding + 1)):
            raise PeerError(DropReason.ESP_BAD_PADDING)
        return plaintext[:end], next_header, newest
