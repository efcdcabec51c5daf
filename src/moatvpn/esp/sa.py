"""One direction of a CHILD_SA each: key, counter, window (RFC 4303)."""

from __future__ import annotations

from typing import NoReturn

from moatvpn.counters import DropReason
from moatvpn.crypto.aead import NotAuthentic, new_aead
from moatvpn.crypto.cbc import BLOCK, CbcHmac
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
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


class _Sending:
    """The sequence numbers of an outbound SA.

    Only this object moves the number, and only upwards: no nonce can come twice, because the
    object can be neither copied nor stored and a number that is spent does not come back.
    """

    __slots__ = ("_esn", "_last", "_sequence", "_soft", "_spi", "octets", "worn")

    def __init__(self, child: ChildSa) -> None:
        self.octets = 0  # of raw packets
        self.worn = False  # whether the soft limit is reached, and a rekey wanted
        self._spi = child.spi_out
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

    def _wear(self, sequence: int) -> bool:
        """Take in that the soft limit is reached; return whether the number may be used yet."""
        self.worn = True
        return sequence <= self._last


class AeadOutboundSa(_Sending):
    """Encrypts with a combined mode, with the sequence number as the IV."""

    __slots__ = ("_aead", "_salt")

    def __init__(self, child: ChildSa) -> None:
        super().__init__(child)
        self._aead, self._salt = new_aead(child.suite, child.key_out)

    def encrypt(self, packet: bytes, next_header: int) -> bytes | None:
        """Return the ESP packet that holds packet, None where the numbers are used up (3.3.3)."""
        sequence = self._sequence + 1
        if sequence >= self._soft and not self._wear(sequence):
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


class CbcOutboundSa(_Sending):
    """Encrypts with AES-CBC and an HMAC (RFC 4303, 3.3.2.1)."""

    __slots__ = ("_cipher",)

    def __init__(self, child: ChildSa) -> None:
        super().__init__(child)
        self._cipher = CbcHmac(child.suite, child.key_out)

    def encrypt(self, packet: bytes, next_header: int) -> bytes | None:
        """Return the ESP packet that holds packet, None where the numbers are used up."""
        sequence = self._sequence + 1
        if sequence >= self._soft and not self._wear(sequence):
            return None
        self._sequence = sequence
        self.octets += len(packet)
        plaintext = packet + trailer(len(packet), next_header, BLOCK)
        body = start(self._spi, sequence)[:HEADER_LENGTH]
        body += self._cipher.encrypt(sequence, plaintext)
        return body + self._cipher.icv(_authenticated(body, sequence, self._esn))


class AeadInboundSa:
    """Authenticates and decrypts with a combined mode, each packet once (RFC 4303, 3.4)."""

    __slots__ = ("_aead", "_esn", "_salt", "_spi", "octets", "packets", "window")

    def __init__(self, child: ChildSa) -> None:
        self.packets = self.octets = 0  # of raw packets that were delivered
        self._spi = child.spi_in
        self.window = ReplayWindow()
        self._aead, self._salt = new_aead(child.suite, child.key_in)
        self._esn = child.esn

    def decrypt(self, data: bytes) -> tuple[bytes, int, bool]:
        """Return the payload, its next header, and whether it is the newest packet so far.

        data is an ESP packet of at least wire.esp.MIN_LENGTH. Raises PeerError for a replay, for
        one that is not authentic, and for wrong padding.
        """
        window = self.window
        sequence = _sequence_of(data, window, self._esn)
        try:
            plaintext = self._aead.decrypt(
                self._salt + data[HEADER_LENGTH:CIPHERTEXT_AT],
                data[CIPHERTEXT_AT:],
                extended_associated_data(self._spi, sequence)
                if self._esn
                else data[:HEADER_LENGTH],
            )
        except NotAuthentic as error:
            window.refused(sequence)
            raise PeerError(DropReason.ESP_NOT_AUTHENTIC) from error
        newest = window.commit(sequence)
        length, next_header = split_trailer(plaintext)
        return plaintext[:length], next_header, newest


class CbcInboundSa:
    """Authenticates and decrypts with an HMAC and AES-CBC, each packet once."""

    __slots__ = ("_cipher", "_esn", "octets", "packets", "window")

    def __init__(self, child: ChildSa) -> None:
        self.packets = self.octets = 0  # of raw packets that were delivered
        self.window = ReplayWindow()
        self._cipher = CbcHmac(child.suite, child.key_in)
        self._esn = child.esn

    def decrypt(self, data: bytes) -> tuple[bytes, int, bool]:
        """Return the payload, its next header, and whether it is the newest packet so far.

        Raises PeerError as AeadInboundSa.decrypt does.
        """
        end = len(data) - self._cipher.icv_length
        if end < HEADER_LENGTH + 2 * BLOCK or (end - HEADER_LENGTH) % BLOCK:
            raise PeerError(DropReason.ESP_TOO_SHORT, f"{len(data)} octets")
        sequence = _sequence_of(data, self.window, self._esn)
        body = data[:end]
        authenticated = _authenticated(body, sequence, self._esn)
        if not self._cipher.is_authentic(authenticated, data[end:]):
            self.window.refused(sequence)
            raise PeerError(DropReason.ESP_NOT_AUTHENTIC)
        newest = self.window.commit(sequence)
        plaintext = self._cipher.decrypt(body[HEADER_LENGTH:])
        length, next_header = split_trailer(plaintext)
        return plaintext[:length], next_header, newest


OutboundSa = AeadOutboundSa | CbcOutboundSa
InboundSa = AeadInboundSa | CbcInboundSa


def outbound_sa(child: ChildSa) -> OutboundSa:
    """Return the direction of a CHILD_SA that we send on."""
    return AeadOutboundSa(child) if child.suite.combined else CbcOutboundSa(child)


def inbound_sa(child: ChildSa) -> InboundSa:
    """Return the direction of a CHILD_SA that we receive on."""
    return AeadInboundSa(child) if child.suite.combined else CbcInboundSa(child)


def _sequence_of(data: bytes, window: ReplayWindow, esn: bool) -> int:
    """Return the sequence number of an ESP packet; raise PeerError for a replay."""
    sequence = int.from_bytes(data[4:HEADER_LENGTH], "big")
    if esn:
        sequence = window.extend(sequence)
    if not window.check(sequence):
        window.refused(sequence)
        raise PeerError(DropReason.ESP_REPLAYED, f"sequence number {sequence}")
    return sequence


def _authenticated(body: bytes, sequence: int, esn: bool) -> bytes:
    """Return what an HMAC covers: the packet, and the number's half that is not in it (2.2.1)."""
    return body + (sequence >> 32).to_bytes(4, "big") if esn else body
