"""The hash of an address in NAT_DETECTION notifies (RFC 7296, 2.23)."""

from __future__ import annotations

from ipaddress import ip_address

from cryptography.hazmat.primitives import hashes

from moatvpn.wire.endpoint import Endpoint


def nat_detection_hash(spi_i: bytes, spi_r: bytes, endpoint: Endpoint) -> bytes:
    """Return SHA-1 over SPIs, address and port. It is no protection, only a comparison."""
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303 the RFC fixes the algorithm
    digest.update(spi_i + spi_r + ip_address(endpoint.host).packed)
    digest.update(endpoint.port.to_bytes(2, "big"))
    return digest.finalize()
