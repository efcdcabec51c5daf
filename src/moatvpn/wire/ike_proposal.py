"""The SA payload: proposals and transforms (RFC 7296, 3.3)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

_PROPOSAL = struct.Struct("!BBHBBBB")
_TRANSFORM = struct.Struct("!BBHBBH")
_ATTRIBUTE = struct.Struct("!HH")
_ATTRIBUTE_TV = 0x8000
_KEY_LENGTH = 14
_MORE_PROPOSALS = 2
_MORE_TRANSFORMS = 3


class Protocol(IntEnum):
    """Protocol IDs of proposals, notifies and deletes."""

    NONE = 0
    IKE = 1
    AH = 2
    ESP = 3


class TransformType(IntEnum):
    """Transform types (RFC 7296, 3.3.2)."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    ESN = 5


ADDITIONAL_TYPES = tuple(range(6, 13))  # ADDKE1 to ADDKE7 (RFC 9370, 2.2.1)
NO_METHOD = 0  # NONE, of a key exchange


@dataclass(frozen=True, slots=True)
class Transform:
    """One algorithm: its type, its number, and its key length in bits where it has a choice."""

    type: int
    id: int
    key_bits: int | None = None


ESN_NO = Transform(TransformType.ESN, 0)
ESN_YES = Transform(TransformType.ESN, 1)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A set of alternatives for one protocol. spi is empty, or 4 octets (ESP) or 8 (IKE rekey)."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]

    def has(self, transform: Transform) -> bool:
        """Return whether transform is among the alternatives."""
        return transform in self.transforms

    def with_spi(self, spi: bytes) -> Proposal:
        """Return the same proposal with another SPI."""
        return Proposal(self.number, self.protocol, spi, self.transforms)

    def of_type(self, kind: TransformType) -> tuple[Transform, ...]:
        """Return the alternatives of one type."""
        return tuple(t for t in self.transforms if t.type == kind)


def encode_proposals(proposals: Sequence[Proposal]) -> bytes:
    """Return the body of an SA payload."""
    parts = []
    for index, proposal in enumerate(proposals):
        last = index == len(proposals) - 1
        transforms = b"".join(
            _encode_transform(t, n == len(proposal.transforms) - 1)
            for n, t in enumerate(proposal.transforms)
        )
        head = _PROPOSAL.pack(
            0 if last else _MORE_PROPOSALS,
            0,
            _PROPOSAL.size + len(proposal.spi) + len(transforms),
            proposal.number,
            proposal.protocol,
            len(proposal.spi),
            len(proposal.transforms),
        )
        parts.append(head + proposal.spi + transforms)
    return b"".join(parts)


def _encode_transform(transform: Transform, last: bool) -> bytes:
    attribute = b""
    if transform.key_bits is not None:
        attribute = _ATTRIBUTE.pack(_ATTRIBUTE_TV | _KEY_LENGTH, transform.key_bits)
    head = _TRANSFORM.pack(
        0 if last else _MORE_TRANSFORMS,
        0,
        _TRANSFORM.size + len(attribute),
        transform.type,
        0,
        transform.id,
    )
    return head + attribute


def parse_proposals(body: bytes) -> tuple[Proposal, ...]:
    """Return the proposals in the body of an SA payload; raise PeerError where it is malformed."""
    proposals = []
    offset, more = 0, _MORE_PROPOSALS
    while more == _MORE_PROPOSALS:
        if offset + _PROPOSAL.size > len(body):
            raise PeerError(DropReason.IKE_MALFORMED, "proposal beyond its payload")
        more, _, length, number, protocol, spi_size, count = _PROPOSAL.unpack_from(body, offset)
        if length < _PROPOSAL.size + spi_size or offset + length > len(body):
            raise PeerError(DropReason.IKE_MALFORMED, f"proposal length {length}")
        start = offset + _PROPOSAL.size
        spi = body[start : start + spi_size]
        transforms = _parse_transforms(body[start + spi_size : offset + length], count)
        proposals.append(Proposal(number, protocol, spi, transforms))
        offset += length
    if more or offset != len(body):
        raise PeerError(DropReason.IKE_MALFORMED, "octets after the last proposal")
    return tuple(proposals)


def _parse_transforms(data: bytes, count: int) -> tuple[Transform, ...]:
    transforms = []
    offset = 0
    for _ in range(count):
        if offset + _TRANSFORM.size > len(data):
            raise PeerError(DropReason.IKE_MALFORMED, "transform beyond its proposal")
        _, _, length, kind, _, number = _TRANSFORM.unpack_from(data, offset)
        if length < _TRANSFORM.size or offset + length > len(data):
            raise PeerError(DropReason.IKE_MALFORMED, f"transform length {length}")
        key_bits, understood = _parse_attributes(data[offset + _TRANSFORM.size : offset + length])
        # An attribute that we do not know makes the transform one that we do not know (3.3.6).
        if understood:
            transforms.append(Transform(kind, number, key_bits))
        offset += length
    if offset != len(data):
        raise PeerError(DropReason.IKE_MALFORMED, "octets after the last transform")
    return tuple(transforms)


def _parse_attributes(data: bytes) -> tuple[int | None, bool]:
    key_bits: int | None = None
    understood = True
    offset = 0
    while offset < len(data):
        if offset + _ATTRIBUTE.size > len(data):
            raise PeerError(DropReason.IKE_MALFORMED, "attribute beyond its transform")
        kind, value = _ATTRIBUTE.unpack_from(data, offset)
        offset += _ATTRIBUTE.size
        if kind == _ATTRIBUTE_TV | _KEY_LENGTH:
            key_bits = value
            continue
        understood = False
        if not kind & _ATTRIBUTE_TV:
            offset += value
    if offset != len(data):
        raise PeerError(DropReason.IKE_MALFORMED, "attribute beyond its transform")
    return key_bits, understood
