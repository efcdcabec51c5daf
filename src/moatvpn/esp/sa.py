"""One direction of a CHILD_SA each: key, counter, window (RFC 4303)."""

from __future__ import annotations

from typing import NoReturn

from moatvpn.counters import DropReason
from moatvpn.crypto.aead import NotAuthentic, aes_256_gcm, chacha20_poly1305
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa, EspSuite
from moatvpn.esp.replay import ReplayWindow
from moatvpn.wire.esp import (
    CIPHERTEXT_AT,
    HEADER_LENGTH,
    LAST_SEQUENCE,
    extended_associated_data,
    split_trailer,
    start,
    trailer,
)

# With extended sequence numbers the end is set by the cipher, not by the number's width. Packets
# hold at most 2^12 blocks (64 KiB), so 2^36 of them are 2^48 blocks under one key: what an attacker
# gains on GCM, about blocks squared / 2^129, is then still 2^-33; at 1500 octets a packet, 2^-43.
LAST_PACKET_EXTENDED = 1 << 36
# From this part of the numbers on, a rekey is wanted: long before the end, whatever the rate.
SOFT_NUMERATOR, SOFT_DENOMINATOR = 3, 4

_NEW_CIPHER = {
    EspSuite.AES_256_GCM: aes_256_gcm,
    EspSuite.CHACHA20_POLY1305: chacha20_poly1305,
}


class OutboundSa:
    """Encrypts, with the sequence number as the IV.

    Only this object moves the number, and only upwards: no nonce can come twice, because the
    object can be neither copied nor stored and a number that is spent does not come back.
    """

    __slots__ = ("_aead", "_esn", "_last", "_salt", "_sequence", "_soft", "_spi", "octets", "worn")

    def __init__(self, child: ChildSa) -> None:
        self.octets = 0  # of raw packets
        self.worn = False  # whether the soft limit is reached, and a rekey wanted
        self._spi = child.spi_out
        self._aead, self._salt = _NEW_CIPHER[child.suite](child.key_out)
        self._esn = child.esn
        self._last = LAST_PACKET_EXTENDED if child.esn else LAST_SEQUENCE
        self._soft = self._last * SOFT_NUMERATOR // SOFT_DENOMINATOR
        self._sequence = 0

    def __copy__(self) -> NoReturn:
        raise TypeError("an outbound SA cannot be copied: nonces would come twice")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce__(self) -> NoReturn:
        self.__copy__()

    @property
    def sequence(self) -> int:
        """Return the number of the last packet, which is also how many there were."""
        return self._sequence

    def encrypt(self, packet: bytes, next_header: int) -> bytes | None:
        """Return the ESP packet that holds packet, None where the numbers are used up (3.3.3)."""
        sequence = self._sequence + 1
        if sequence >= self._soft:
            self.worn = True
            if sequence > self._last:
                return None
        self._sequence = sequence
        self.octets += len(packet)
        begin = start(self._spi, sequence)
        header = begin[:HEADER_LENGTH]
        return begin + self._aead.encrypt(
            self._salt + begin[HEADER_LENGTH:],
            packet + trailer(len(packet), next_header),
            extended_associated_data(self._spi, sequence) if self._esn else header,
        )


class InboundSa:
    """Authenticates and decrypts, each packet once (RFC 4303, 3.4)."""

    __slots__ = ("_aead", "_esn", "_salt", "_spi", "_window", "octets", "packets")

    def __init__(self, child: ChildSa) -> None:
        self.packets = self.octets = 0  # of raw packets that were delivered
        self._spi = child.spi_in
        self._window = ReplayWindow()
        self._aead, self._salt = _NEW_CIPHER[child.suite](child.key_in)
        self._esn = child.esn

    def decrypt(self, data: bytes) -> tuple[bytes, int, bool]:
        """Return the payload, its next header, and whether it is the newest packet so far.

        data is an ESP packet of at least wire.esp.MIN_LENGTH. Raises PeerError for a replay, for
        one that is not authentic, and for wrong padding.
        """
        sequence = int.from_bytes(data[4:HEADER_LENGTH], "big")
        window = self._window
        if self._esn:
            sequence = window.extend(sequence)
        if not window.check(sequence):
            raise PeerError(DropReason.ESP_REPLAYED, f"sequence number {sequence}")
        try:
            plaintext = self._aead.decrypt(
                self._salt + data[HEADER_LENGTH:CIPHERTEXT_AT],
                data[CIPHERTEXT_AT:],
                extended_associated_data(self._spi, sequence)
                if self._esn
                else data[:HEADER_LENGTH],
            )
        except NotAuthentic as error:
            raise PeerError(DropReason.ESP_NOT_AUTHENTIC) from error
        newest = window.commit(sequence)
        length, next_header = split_trailer(plaintext)
        return plaintext[:length], next_header, newest
