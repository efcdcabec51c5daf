"""The hash of an address in NAT_DETECTION notifies (RFC 7296, 2.23)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives import hashes

from moatvpn.wire.endpoint import Endpoint


# What a request is compared with is what its answer holds. A liveness check takes four of these.
@lru_cache(maxsize=64)
def nat_detection_hash(spi_i: bytes, spi_r: bytes, endpoint: Endpoint) -> bytes:
    """Return SHA-1 over SPIs, address and port. It is no protection, only a comparison."""
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303 the RFC fixes the algorithm
    address = endpoint.host_octets + endpoint.port.to_bytes(2, "big")
    digest.update(spi_i + spi_r + address)
    return digest.finalize()
