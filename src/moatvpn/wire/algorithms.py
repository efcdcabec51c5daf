"""The algorithms that we know, by their names in configuration and their numbers on the wire.

Numbers are those of IANA's "IKEv2 Parameters"; what must, should and may be there is RFC 8221 for
ESP and RFC 8247 for IKE. What a name means to `cryptography` stands in the crypto package.
"""

from __future__ import annotations

from enum import Enum

from moatvpn.wire.ike_proposal import Transform, TransformType

_AES_CBC, _AES_GCM_16, _CHACHA20_POLY1305 = 12, 20, 28
_HMAC_SHA2_256_128, _HMAC_SHA2_512_256 = 12, 14
_INTEGRITY_KEY_LENGTHS = {_HMAC_SHA2_256_128: 32, _HMAC_SHA2_512_256: 64}
_SHA2_256 = Transform(TransformType.INTEG, _HMAC_SHA2_256_128)
_SHA2_512 = Transform(TransformType.INTEG, _HMAC_SHA2_512_256)
_SUITES: dict[str, tuple[Transform, Transform | None]] = {
    "aes-256-gcm": (Transform(TransformType.ENCR, _AES_GCM_16, 256), None),
    "chacha20-poly1305": (Transform(TransformType.ENCR, _CHACHA20_POLY1305), None),
    "aes-128-gcm": (Transform(TransformType.ENCR, _AES_GCM_16, 128), None),
    "aes-256-cbc-hmac-sha2-512": (Transform(TransformType.ENCR, _AES_CBC, 256), _SHA2_512),
    "aes-256-cbc-hmac-sha2-256": (Transform(TransformType.ENCR, _AES_CBC, 256), _SHA2_256),
    "aes-128-cbc-hmac-sha2-256": (Transform(TransformType.ENCR, _AES_CBC, 128), _SHA2_256),
}


class CipherSuite(Enum):
    """What protects the packets of an ESP SA or the messages of an IKE SA.

    The value is its name in configuration. A combined-mode algorithm stands alone; AES-CBC, which
    is for old peers, goes with an HMAC.
    """

    AES_256_GCM = "aes-256-gcm"  # RFC 4106, RFC 5282; 16-octet ICV
    CHACHA20_POLY1305 = "chacha20-poly1305"  # RFC 7634
    AES_128_GCM = "aes-128-gcm"
    AES_256_CBC_SHA2_512 = "aes-256-cbc-hmac-sha2-512"  # RFC 3602, RFC 4868
    AES_256_CBC_SHA2_256 = "aes-256-cbc-hmac-sha2-256"
    AES_128_CBC_SHA2_256 = "aes-128-cbc-hmac-sha2-256"

    def __init__(self, _name: str) -> None:
        self.encr, self.integ = _SUITES[_name]

    @property
    def combined(self) -> bool:
        """Return whether one algorithm both encrypts and authenticates."""
        return self.integ is None

    @property
    def key_length(self) -> int:
        """Return the length of the cipher's key in octets, without the salt."""
        return (self.encr.key_bits or 256) // 8

    @property
    def salt_length(self) -> int:
        """Return the length of the salt that follows the key in the keying material, in octets."""
        return 4 if self.combined else 0

    @property
    def integrity_key_length(self) -> int:
        """Return the length of the HMAC's key in octets, 0 where there is none (RFC 4868, 2.1)."""
        return 0 if self.integ is None else _INTEGRITY_KEY_LENGTHS[self.integ.id]

    @property
    def material_length(self) -> int:
        """Return how many octets of keying material one direction takes.

        They are the key and its salt, or the key and the HMAC's key (RFC 7296, 2.17).
        """
        return self.key_length + self.salt_length + self.integrity_key_length


class Group(Enum):
    """A key exchange method. The value is its name in configuration."""

    X25519 = "x25519"  # RFC 8031
    ECP_256 = "ecp256"  # RFC 5903
    ECP_384 = "ecp384"
    MODP_3072 = "modp3072"  # RFC 3526

    @property
    def number(self) -> int:
        """Return the transform number, which also stands in KE payloads."""
        return _GROUP_NUMBERS[self.value]

    @property
    def transform(self) -> Transform:
        """Return the transform that offers it."""
        return Transform(TransformType.KE, self.number)

    @classmethod
    def by_number(cls, number: int) -> Group | None:
        """Return the group of a transform number, None where it is none of ours."""
        return _GROUPS.get(number)


class Kem(Enum):
    """A key encapsulation mechanism, for key exchanges beside the first. The value is its name.

    Its public values are too long for IKE_SA_INIT, which cannot go in fragments.
    """

    ML_KEM_768 = "mlkem768"  # FIPS 203; its numbers of the category between 512 and 1024

    @property
    def number(self) -> int:
        """Return the transform number, which also stands in KE payloads."""
        return _KEM_NUMBERS[self.value]

    @classmethod
    def by_number(cls, number: int) -> Kem | None:
        """Return the mechanism of a transform number, None where it is none of ours."""
        return _KEMS.get(number)


class PostQuantum(Enum):
    """Whether ML-KEM goes beside the first key exchange. The value is its name in configuration.

    A peer that has none still gets a connection, unless it is required. Whoever takes it out of a
    proposal on the way is found out by AUTH, which covers the proposals of both.
    """

    OFF = "off"
    PREFER = "prefer"
    REQUIRE = "require"

    @property
    def ways(self) -> tuple[bool, ...]:
        """Return whether to go with an additional key exchange, best first."""
        return _WAYS[self.value]


_WAYS = {"off": (False,), "prefer": (True, False), "require": (True,)}


Method = Group | Kem
_KEM_NUMBERS = {"mlkem768": 36}
_KEMS = {kem.number: kem for kem in Kem}

_GROUP_NUMBERS = {"x25519": 31, "ecp256": 19, "ecp384": 20, "modp3072": 15}
_GROUPS = {group.number: group for group in Group}

# What is offered and accepted where nothing else is configured, best first. AES-CBC and modp3072,
# which costs a responder milliseconds, are for peers that have nothing better: only by name.
DEFAULT_SUITES = (CipherSuite.AES_256_GCM, CipherSuite.CHACHA20_POLY1305)
DEFAULT_GROUPS = (Group.X25519, Group.ECP_256, Group.ECP_384)
