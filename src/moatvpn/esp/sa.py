"""One direction of a CHILD_SA each: key, counter, window (RFC 4303). Both work on whole runs.

Nothing here is done once an envelope that can be done once a run: a run is what one reading of the
TUN device, or of a socket, has for one SA.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from itertools import islice
from struct import Struct
from typing import NoReturn

from moatvpn.counters import DropReason
from moatvpn.crypto.aead import NotAuthentic, new_aead
from moatvpn.crypto.cbc import BLOCK, CbcHmac
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.replay import ReplayWindow
from moatvpn.esp.ring import Ring
from moatvpn.wire.esp import (
    ALIGNMENT,
    CIPHERTEXT_AT,
    HEADER_LENGTH,
    ICV_LENGTH,
    LAST_SEQUENCE,
    START,
    TRAILER_LENGTH,
    Part,
    extended_associated_data,
    header,
    split_trailer,
    start,
    whole,
)

# With extended sequence numbers the end is set by the cipher, not by the number's width. Packets
# hold at most 2^12 blocks (64 KiB), so 2^36 of them are 2^48 blocks under one key: what an attacker
# gains on GCM, about blocks squared / 2^129, is then still 2^-33; at 1500 octets a packet, 2^-43.
LAST_PACKET_EXTENDED = 1 << 36
# From this part of the numbers on, a rekey is wanted: long before the end, whatever the rate.
SOFT_NUMERATOR, SOFT_DENOMINATOR = 3, 4

_NONCE = Struct("!4sQ").pack  # salt and IV
_START = START.pack_into
_SPAN = 1 << 32


class _Sending:
    """The sequence numbers of an outbound SA.

    Only this object moves the number, and only upwards: no nonce can come twice, because the
    object can be neither copied nor stored and a number that is spent does not come back.
    """

    __slots__ = ("_esn", "_last", "_sequence", "_soft", "_spi", "octets", "packets", "worn")

    alignment = ALIGNMENT  # of a plaintext, trailer included

    def __init__(self, child: ChildSa) -> None:
        self.packets = self.octets = 0  # of raw packets
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

    def _spend(self, count: int) -> int | None:
        """Return the first of count numbers, which are spent now; None where they are used up."""
        first = self._sequence + 1
        last = self._sequence + count
        if last >= self._soft:
            self.worn = True
            if last > self._last:
                return None
        self._sequence = last
        return first


class AeadOutboundSa(_Sending):
    """Encrypts with a combined mode, with the sequence number as the IV."""

    __slots__ = ("_aead", "_salt")

    overhead = CIPHERTEXT_AT + ICV_LENGTH

    def __init__(self, child: ChildSa) -> None:
        super().__init__(child)
        self._aead, self._salt = new_aead(child.suite, child.key_out)

    def seal(self, plaintexts: Sequence[bytes], ring: Ring) -> memoryview | None:
        """Return the envelopes of plaintexts back to back in ring, None where numbers are used up.

        A plaintext is payload, padding and trailer, of a length that alignment divides. All have
        the length of the first, but the last may be shorter; ring holds them all (3.3.3).
        """
        first = self._spend(len(plaintexts))
        if first is None:
            return None
        size = len(plaintexts[0]) + self.overhead
        spi, salt, octets = self._spi, self._salt, ring.octets
        if len(plaintexts) == 1:
            # Small and lonely packets want an answer soon: for one, lists would cost as much again.
            _START(octets, 0, spi, first % _SPAN, first)
            head = extended_associated_data(spi, first) if self._esn else header(spi, first)
            sealed = ring.view[CIPHERTEXT_AT:size]
            self._aead.encrypt_into(_NONCE(salt, first), plaintexts[0], head, sealed)
            return ring.view[:size]
        numbers = range(first, first + len(plaintexts))
        # Outgoing low halves wrap only with extended numbers: one look is enough for nearly all.
        wraps = numbers[-1] >= _SPAN
        for at, number in zip(range(0, size * len(plaintexts), size), numbers, strict=True):
            _START(octets, at, spi, number % _SPAN if wraps else number, number)
        if self._esn:
            associated = [extended_associated_data(spi, number) for number in numbers]
        else:
            associated = [header(spi, number) for number in numbers]
        nonces = [_NONCE(salt, number) for number in numbers]
        places = ring.places(size, len(plaintexts))
        end = size * len(plaintexts)
        if len(plaintexts[-1]) + self.overhead != size:
            end += len(plaintexts[-1]) + self.overhead - size
            places[-1] = places[-1][: len(plaintexts[-1]) + ICV_LENGTH]
        deque(map(self._aead.encrypt_into, nonces, plaintexts, associated, places), maxlen=0)
        return ring.view[:end]


class CbcOutboundSa(_Sending):
    """Encrypts with AES-CBC and an HMAC (RFC 4303, 3.3.2.1)."""

    __slots__ = ("_cipher", "overhead")

    alignment = BLOCK

    def __init__(self, child: ChildSa) -> None:
        super().__init__(child)
        self._cipher = CbcHmac(child.suite, child.key_out)
        self.overhead = HEADER_LENGTH + BLOCK + self._cipher.icv_length

    def seal(self, plaintexts: Sequence[bytes], ring: Ring) -> memoryview | None:
        """Return the envelopes of plaintexts, as AeadOutboundSa.seal does."""
        del ring
        first = self._spend(len(plaintexts))
        if first is None:
            return None
        sealed = []
        for number, plaintext in enumerate(plaintexts, first):
            body = start(self._spi, number)[:HEADER_LENGTH]
            body += self._cipher.encrypt(number, plaintext)
            sealed.append(body + self._cipher.icv(_authenticated(body, number, self._esn)))
        return memoryview(b"".join(sealed))


class NoOutboundSa(_Sending):
    """Stands for a direction that another process sends on: without a key it seals nothing."""

    __slots__ = ()

    overhead = CIPHERTEXT_AT + ICV_LENGTH

    def seal(self, plaintexts: Sequence[bytes], ring: Ring) -> None:
        """Return None, as where numbers are used up."""
        del plaintexts, ring


# One envelope that was new and authentic: its number, plaintext, where in that the payload ends,
# and the next header. A bare tuple, since one is made for every envelope.
Opened = tuple[int, bytes, int, int]


class Opening:
    """What came of the envelopes of one arrival.

    newest: one that was opened is the newest of its SA so far.
    """

    __slots__ = ("newest", "opened", "refused")

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.refused: list[DropReason] = []
        self.newest = False


class _Receiving(ABC):
    """The anti-replay window of an inbound SA, and what it has delivered."""

    __slots__ = ("_esn", "_spi", "octets", "packets", "window")

    def __init__(self, child: ChildSa) -> None:
        self.packets = self.octets = 0  # of raw packets
        self.window = ReplayWindow()
        self._spi = child.spi_in
        self._esn = child.esn

    @abstractmethod
    def _decrypt(self, sequence: int, part: Part) -> bytes:
        """Return the plaintext of an envelope; raise NotAuthentic, or PeerError for its form."""

    def peek(self, part: Part) -> Opened | None:
        """Return what is in an authentic envelope that bears the number after the newest.

        None for any other, which open deals with. Nothing changes before take is called.
        """
        following = self.window.top + 1
        if part[1] != following % _SPAN or (following >= _SPAN and not self._esn):
            return None
        try:
            plaintext = self._decrypt(following, part)
            end, next_header = len(plaintext) - TRAILER_LENGTH, plaintext[-1]
            if plaintext[-2]:
                end, next_header = split_trailer(plaintext)
        except (NotAuthentic, PeerError):
            return None
        return following, plaintext, end, next_header

    def take(self, sequence: int, octets: int) -> None:
        """Take in what peek has returned: that number, with a raw packet of so many octets."""
        self.window.commit(sequence)
        self.packets += 1
        self.octets += octets

    def open(self, parts: Sequence[Part], at: int, opening: Opening) -> int:
        """Open the envelopes from that place on, as long as they are this SA's.

        Returns the place of the first that is not. The order is RFC 4303's (3.4): first the
        window's check, then authentication, then the window takes the number in.
        """
        window, spi, esn = self.window, self._spi, self._esn
        decrypt, append, refuse = self._decrypt, opening.opened.append, opening.refused.append
        before = window.top
        first = following = before + 1  # the numbers from first to following are not committed yet
        taken = at
        for part in islice(parts, at, None):
            if part[0] != spi:
                break
            taken += 1
            sequence = following
            if part[1] != following % _SPAN or (following >= _SPAN and not esn):
                if following != first:
                    window.commit_run(first, following - first)
                    first = following
                sequence = window.extend(part[1]) if esn else part[1]
                if not window.check(sequence):
                    window.refused(sequence)
                    refuse(DropReason.ESP_REPLAYED)
                    continue
            try:
                plaintext = decrypt(sequence, part)
            except NotAuthentic:
                window.refused(sequence)
                refuse(DropReason.ESP_NOT_AUTHENTIC)
                continue
            except PeerError as error:
                refuse(error.reason)
                continue
            if sequence < following:
                window.commit(sequence)
            else:
                if sequence > following:
                    first = sequence
                following = sequence + 1
            end, next_header = len(plaintext) - TRAILER_LENGTH, plaintext[-1]
            if plaintext[-2]:
                try:
                    end, next_header = split_trailer(plaintext)
                except PeerError as error:
                    refuse(error.reason)
                    continue
            append((sequence, plaintext, end, next_header))
        if following != first:
            window.commit_run(first, following - first)
        opening.newest |= window.top != before
        return taken


class AeadInboundSa(_Receiving):
    """Authenticates and decrypts with a combined mode, each packet once (RFC 4303, 3.4)."""

    __slots__ = ("_open", "_salt")

    def __init__(self, child: ChildSa) -> None:
        super().__init__(child)
        aead, self._salt = new_aead(child.suite, child.key_in)
        self._open = aead.decrypt

    def _decrypt(self, sequence: int, part: Part) -> bytes:
        spi, low, iv, sealed = part
        associated = extended_associated_data(spi, sequence) if self._esn else header(spi, low)
        return self._open(self._salt + iv, sealed, associated)


class CbcInboundSa(_Receiving):
    """Authenticates and decrypts with an HMAC and AES-CBC, each packet once."""

    __slots__ = ("_cipher",)

    def __init__(self, child: ChildSa) -> None:
        super().__init__(child)
        self._cipher = CbcHmac(child.suite, child.key_in)

    def _decrypt(self, sequence: int, part: Part) -> bytes:
        data = whole(part)
        end = len(data) - self._cipher.icv_length
        if end < HEADER_LENGTH + 2 * BLOCK or (end - HEADER_LENGTH) % BLOCK:
            raise PeerError(DropReason.ESP_TOO_SHORT, f"{len(data)} octets")
        body = data[:end]
        authenticated = _authenticated(body, sequence, self._esn)
        if not self._cipher.is_authentic(authenticated, data[end:]):
            raise NotAuthentic
        return self._cipher.decrypt(body[HEADER_LENGTH:])


class NoInboundSa(_Receiving):
    """Stands for a direction that another process receives on: without a key it opens nothing."""

    __slots__ = ()

    def _decrypt(self, sequence: int, part: Part) -> NoReturn:
        del sequence, part
        raise NotAuthentic


OutboundSa = AeadOutboundSa | CbcOutboundSa | NoOutboundSa
InboundSa = AeadInboundSa | CbcInboundSa | NoInboundSa


def outbound_sa(child: ChildSa) -> OutboundSa:
    """Return the direction of a CHILD_SA that we send on; without its key it sends nothing."""
    if not child.key_out:
        return NoOutboundSa(child)
    return AeadOutboundSa(child) if child.suite.combined else CbcOutboundSa(child)


def inbound_sa(child: ChildSa) -> InboundSa:
    """Return the direction of a CHILD_SA that we receive on; without its key it opens nothing."""
    if not child.key_in:
        return NoInboundSa(child)
    return AeadInboundSa(child) if child.suite.combined else CbcInboundSa(child)


def _authenticated(body: bytes, sequence: int, esn: bool) -> bytes:
    """Return what an HMAC covers: the packet, and the number's half that is not in it (2.2.1)."""
    return body + (sequence >> 32).to_bytes(4, "big") if esn else body
