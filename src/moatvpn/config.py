"""Settings as typed, frozen values, read from JSON and checked field by field."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from moatvpn.config_fields import FQDN, Record
from moatvpn.config_fields import MOST_SECONDS as MOST_SECONDS
from moatvpn.config_fields import load_json as load_json
from moatvpn.config_fields import object_from_json as object_from_json
from moatvpn.esp.tfc import NO_TFC, Tfc, TfcMode
from moatvpn.wire.algorithms import (
    DEFAULT_GROUPS,
    DEFAULT_SUITES,
    CipherSuite,
    Group,
    PostQuantum,
)
from moatvpn.wire.endpoint import IKE_PORT, NAT_PORT

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PPK_ID = re.compile(r"[!-~]{1,64}")
_PPK_SHAPE = "1 to 64 characters of ASCII, without spaces"
# How a SubjectPublicKeyInfo begins, up to the octets of the key itself: Ed25519 (RFC 8410), and
# points of P-256 and P-384 (RFC 5480), not compressed.
ED25519_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
P256_SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
P384_SPKI_PREFIX = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
_SPKI_LENGTHS = {
    head: len(head) + size
    for head, size in (
        (ED25519_SPKI_PREFIX, 32),
        (P256_SPKI_PREFIX, 64),
        (P384_SPKI_PREFIX, 96),
    )
}

AGGFRAG = ("auto", "off")
# Octets of an envelope with its IP header: what every IPv4 path can carry some of, to jumbo frames.
_TFC_OCTETS = (128, 9000)
_TFC_RATE = (1, 100_000)  # envelopes a second
_METRIC = (1, 255)
MOST_LINES = 16  # CHILD_SAs of one connection side by side
_OTHER_PATHS = ("certificate", "operator_keys", "insecure_write_keys_for_wireshark")
_USUAL_PORTS = (IKE_PORT, NAT_PORT)
_LONGEST_SOCKET_PATH = 107  # octets (unix(7)), without the zero that ends it

AUTHENTICATIONS = ("raw-public-key", "psk", "certificate")
# What each of them needs, and the others may not have.
_NEEDS = dict(zip(AUTHENTICATIONS, ("remote_public_keys", "psk_file", "ca_files"), strict=True))

DATA_PLANES = ("auto", "python", "kernel")
WORKERS = ("auto", "on", "off")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Gateway:
    """Another portal that a moat may be sent to: its IPv4 address, its identity and its keys."""

    address: str
    identity: str
    public_keys: tuple[str, ...]

    def is_where(self, other: Gateway) -> bool:
        """Return whether it is the same portal, whatever its keys are."""
        return (self.address, self.identity) == (other.address, other.identity)


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One tunnel, as the database describes it.

    Nothing in it depends on a wild-side address, but for the portal's that a moat is told.

    name: the connection's name, unique on a box; a word of a-z, 0-9, '.', '_' and '-'.
    remote_identity: the peer's FQDN identity (IDFQDN).
    authentication: how both sides prove who they are, one of AUTHENTICATIONS.
    remote_public_keys: the keys that the peer may prove, Ed25519 or ECDSA on P-256 or P-384, base64
        of SubjectPublicKeyInfo; for "raw-public-key".
    psk_file: the file that holds the secret; for "psk".
    ca_files: the files (PEM) of the CAs that may vouch for the peer; for "certificate".
    local_selectors, remote_selectors: the networks on our and on the peer's side.
    remote_address: the IPv4 address to reach the peer at; None on a portal, which waits to be
        called.
    initiate: whether this side sets the tunnel up, and sets it up again whenever it is down.
    encapsulation: "auto" (UDP where a NAT is detected, else protocol 50) or "udp", which goes for
        both sides; on a side that is called, one connection's "udp" goes for all that call it.
    esp_suites, ike_suites: what is offered or accepted, best first, for envelopes and for IKE.
    groups: the key exchange methods that are, likewise.
    post_quantum: whether ML-KEM-768 goes beside them: "off", "prefer" or "require".
    ppk_id, ppk_file: the name of a postquantum pre-shared key that both sides have, and the file
        with its secret (RFC 8784). ppk_required: whether there is no connection without it.
    pfs: whether each rekey of a CHILD_SA has a key exchange of its own.
    child_sas: "one" CHILD_SA for all networks, or one "per-pair" of networks, for peers that take
        no more (RFC 7296, 2.9); MOST_LINES at most. The side that calls goes by it.
    aggfrag: "auto" (raw packets are packed into envelopes and split over them, RFC 9347, where the
        peer and the data plane can) or "off".
    tfc: what is hidden from who watches the wild side: "off", "pad" (every envelope of ours has
        the same size) or "constant" (and they leave at a constant rate, with traffic or without).
    tfc_octets: that size, with the IP header, 128 to 9000, or what the path carries where that is
        less; 0 for what the path carries.
    tfc_rate: envelopes a second of each CHILD_SA for "constant", 1 to 100,000.
    request_addresses: whether to ask the peer for addresses, resolvers and networks behind it: for
        a moat that is a single machine.
    assigned_addresses, assigned_dns, assigned_domains: what a peer that asks is told, beside
        local_selectors: its addresses, resolvers, and the domains that they are for.
    redirect_gateways: further portals that the peer may send us to (RFC 5685), and none besides;
        each proves its own identity by one of its own keys.
    metric: which of several connections for the same networks carries their packets: of those that
        are up the one of the lowest metric, each has its own. What comes in is taken from all of
        them, so a change of it loses nothing. Where the kernel carries the packets, a network has
        one connection.
    child_lifetime, ike_lifetime: seconds until a rekey starts, a week at most; each side jitters
        them.
    dpd_interval: seconds of silence from the peer after which it is asked whether it lives, up to a
        fifth earlier by jitter.
    """

    name: str
    remote_identity: str
    local_selectors: tuple[str, ...]
    remote_selectors: tuple[str, ...]
    authentication: str = "raw-public-key"
    remote_public_keys: tuple[str, ...] = ()
    psk_file: Path | None = None
    ca_files: tuple[Path, ...] = ()
    remote_address: str | None = None
    initiate: bool = False
    encapsulation: str = "auto"
    esp_suites: tuple[CipherSuite, ...] = DEFAULT_SUITES
    ike_suites: tuple[CipherSuite, ...] = DEFAULT_SUITES
    groups: tuple[Group, ...] = DEFAULT_GROUPS
    post_quantum: PostQuantum = PostQuantum.PREFER
    ppk_id: str | None = None
    ppk_file: Path | None = None
    ppk_required: bool = True
    pfs: bool = True
    child_sas: str = "one"
    aggfrag: str = "auto"
    tfc: TfcMode = TfcMode.OFF
    tfc_octets: int = 0
    tfc_rate: int = 0
    request_addresses: bool = False
    assigned_addresses: tuple[str, ...] = ()
    assigned_dns: tuple[str, ...] = ()
    assigned_domains: tuple[str, ...] = ()
    redirect_gateways: tuple[Gateway, ...] = ()
    metric: int = 0
    child_lifetime: float = 3600.0
    ike_lifetime: float = 14400.0
    dpd_interval: float = 8.0

    def public_keys(self) -> tuple[bytes, ...]:
        """Return remote_public_keys decoded to SubjectPublicKeyInfo octets."""
        return tuple(base64.b64decode(key) for key in self.remote_public_keys)

    @property
    def hiding(self) -> Tfc:
        """Return the settings of traffic-flow confidentiality."""
        if self.tfc is TfcMode.OFF:
            return NO_TFC
        return Tfc(self.tfc, self.tfc_octets, self.tfc_rate)


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """What moatd itself needs to know.

    identity: our own FQDN identity. private_key: the PEM file (PKCS #8) of our key: Ed25519 as
        `moatctl identity create` makes it, or ECDSA, or with a certificate RSA.
    certificate: the PEM file of our own certificate and the intermediates after it, if we have one.
    operator_keys: the file of the operator's public keys; then a connection must be in a peer set
        that one of them has signed (moatvpn.peers). None: connections need no signature.
    crls: the files (PEM or DER) of CRLs; a certificate that they list is refused.
    tunnel_interface: the TUN device, made beforehand for moatd's user, or the kernel's interface
        for IPsec.
    connections: the directory that holds one NAME.json for each connection.
    control_socket: where moatctl finds us. log_level: one of LOG_LEVELS.
    wild_addresses: all IPv4 addresses that peers may reach us at, where there are several; peers
        are told of them (RFC 4555).
    data_plane: one of DATA_PLANES: whether moatd carries the packets itself ("python"), or has the
        kernel do it, by an interface of the kind xfrm; "auto" is the kernel where it can.
    workers: one of WORKERS: whether packets have a process for each way, where moatd carries them;
        "auto" is where it may use four cores or more.
    state: the directory of what outlives moatd, private to its user; None: nothing does.
    ports: the numbers of our UDP ports that stand in for 500 and 4500, for a further daemon on
        a box. To peers it looks as if a NAT had put us there, so envelopes travel in UDP alone.
    insecure_write_keys_for_wireshark: a directory that gets the keys of all traffic, as Wireshark
        reads them: for a laboratory, and never for a box at work.
    """

    identity: str
    private_key: Path
    tunnel_interface: str = "moat0"
    connections: Path = Path("/etc/moatvpn/connections.d")
    control_socket: Path = Path("/run/moatvpn/control.sock")
    log_level: str = "info"
    certificate: Path | None = None
    operator_keys: Path | None = None
    crls: tuple[Path, ...] = ()
    wild_addresses: tuple[str, ...] = ()
    data_plane: str = "python"
    workers: str = "auto"
    state: Path | None = None
    ports: tuple[int, int] = _USUAL_PORTS
    insecure_write_keys_for_wireshark: Path | None = None


def public_key_from_text(text: str) -> bytes:
    """Return the SubjectPublicKeyInfo octets of a key that a peer may prove.

    Raises ValueError for what is neither Ed25519 nor ECDSA on P-256 or P-384.
    """
    try:
        spki = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from error
    if not any(spki.startswith(head) and len(spki) == n for head, n in _SPKI_LENGTHS.items()):
        raise ValueError("not a SubjectPublicKeyInfo of Ed25519, P-256 or P-384")
    return spki


def connection_from_dict(record: dict[str, Any], where: str = "connection") -> ConnectionConfig:
    """Return the connection that record describes.

    record has the fields of ConnectionConfig; where names its source in errors.
    Raises ConfigError, which names the field at fault.
    """
    get = Record(where, record, tuple(f.name for f in fields(ConnectionConfig)))
    authentication = get.choice("authentication", AUTHENTICATIONS, "raw-public-key")
    _check_needs(get, authentication)
    keys = get.texts("remote_public_keys") if authentication == "raw-public-key" else ()
    for key in keys:
        try:
            public_key_from_text(key)
        except ValueError as error:
            raise get.error(
                "remote_public_keys", str(error), "Copy it from moat_identity"
            ) from error
    address = get.wild_address("remote_address")
    initiate = get.flag("initiate", False)
    if initiate and address is None:
        raise get.error("remote_address", "is missing", "A side that initiates must know it")
    networks = {key: get.networks(key) for key in ("local_selectors", "remote_selectors")}
    child_sas = get.choice("child_sas", ("one", "per-pair"), "one")
    if child_sas == "per-pair" and (pairs := _pairs(**networks)) > MOST_LINES:
        why = f"would make {pairs} CHILD_SAs of these networks, and {MOST_LINES} is the most"
        raise get.error("child_sas", why, "Join neighbouring networks to larger ones")
    hiding = _hiding(get)
    return ConnectionConfig(
        name=get.text("name", _NAME, "1 to 63 of a-z, 0-9, '.', '_' and '-'"),
        remote_identity=get.text("remote_identity", FQDN, "a domain name in lower case"),
        authentication=authentication,
        remote_public_keys=keys,
        psk_file=get.path("psk_file") if authentication == "psk" else None,
        ca_files=get.paths("ca_files") if authentication == "certificate" else (),
        **networks,
        remote_address=address,
        initiate=initiate,
        encapsulation=get.choice("encapsulation", ("auto", "udp"), "auto"),
        esp_suites=get.members("esp_suites", CipherSuite, DEFAULT_SUITES),
        ike_suites=get.members("ike_suites", CipherSuite, DEFAULT_SUITES),
        groups=get.members("groups", Group, DEFAULT_GROUPS),
        post_quantum=get.member("post_quantum", PostQuantum, PostQuantum.PREFER),
        ppk_id=get.text("ppk_id", _PPK_ID, _PPK_SHAPE) if _has_ppk(get) else None,
        ppk_file=get.path("ppk_file") if _has_ppk(get) else None,
        ppk_required=get.flag("ppk_required", True),
        pfs=get.flag("pfs", True),
        child_sas=child_sas,
        aggfrag=get.choice("aggfrag", AGGFRAG, "auto"),
        tfc=hiding.mode,
        tfc_octets=hiding.octets,
        tfc_rate=hiding.rate,
        request_addresses=get.flag("request_addresses", False),
        **{key: get.hosts(key) for key in ("assigned_addresses", "assigned_dns")},
        assigned_domains=get.domains("assigned_domains"),
        redirect_gateways=_gateways(get, authentication),
        metric=get.amount("metric", _METRIC, "a metric"),
        child_lifetime=get.seconds("child_lifetime", 3600.0, 10.0),
        ike_lifetime=get.seconds("ike_lifetime", 14400.0, 20.0),
        dpd_interval=get.seconds("dpd_interval", 8.0, 1.0),
    )


def _gateways(get: Record, authentication: str) -> tuple[Gateway, ...]:
    """Return the gateways of redirect_gateways, a list of JSON objects."""
    entries = get.record.get("redirect_gateways", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise get.error("redirect_gateways", "is no list of objects", "Give such a list, or none")
    if entries and authentication != "raw-public-key":
        why = f"needs raw public keys, and authentication is {authentication}"
        raise get.error("redirect_gateways", why, "Drop it, or use raw-public-key")
    gateways = []
    for number, entry in enumerate(entries):
        where = f"{get.where}: redirect_gateways[{number}]"
        one = Record(where, entry, tuple(f.name for f in fields(Gateway)))
        keys = one.texts("public_keys")
        address = one.wild_address("address")
        for key in keys:
            try:
                public_key_from_text(key)
            except ValueError as error:
                raise one.error("public_keys", str(error), "Copy it from moat_identity") from error
        if address is None:
            raise one.error("address", "is missing", "Give the gateway's IPv4 address")
        identity = one.text("identity", FQDN, "a domain name in lower case")
        gateways.append(Gateway(address, identity, keys))
    return tuple(gateways)


def gateways_of(config: ConnectionConfig) -> tuple[Gateway, ...]:
    """Return where a connection's peer may send us: there is a way back, too; often none."""
    if config.remote_address is None or not config.redirect_gateways:
        return ()
    home = Gateway(config.remote_address, config.remote_identity, config.remote_public_keys)
    return (home, *config.redirect_gateways)


def config_for(config: ConnectionConfig, gateway: Gateway) -> ConnectionConfig:
    """Return a connection's settings with another gateway for its peer."""
    return replace(config, remote_identity=gateway.identity, remote_public_keys=gateway.public_keys)


def _pairs(local_selectors: Sequence[str], remote_selectors: Sequence[str]) -> int:
    """Return how many pairs of a local and a remote network of the same family there are."""
    sides = (local_selectors, remote_selectors)
    (ours6, theirs6) = (sum(":" in network for network in side) for side in sides)
    ours4, theirs4 = len(local_selectors) - ours6, len(remote_selectors) - theirs6
    return ours4 * theirs4 + ours6 * theirs6


def _hiding(get: Record) -> Tfc:
    """Return the settings of traffic-flow confidentiality, of which none is without effect."""
    mode = get.member("tfc", TfcMode, TfcMode.OFF)
    octets = get.amount("tfc_octets", _TFC_OCTETS, "octets of an envelope")
    rate = get.amount("tfc_rate", _TFC_RATE, "envelopes a second")
    if octets and mode is TfcMode.OFF:
        raise get.error("tfc_octets", "is for tfc pad and constant", "Drop it, or set one of them")
    if rate and mode is not TfcMode.CONSTANT:
        raise get.error("tfc_rate", "is for tfc constant", "Drop it, or set tfc to that")
    if not rate and mode is TfcMode.CONSTANT:
        remedy = "Give the envelopes a second, by what the wild side can spare for good"
        raise get.error("tfc_rate", "is missing", remedy)
    if mode is TfcMode.CONSTANT and get.choice("aggfrag", AGGFRAG, "auto") == "off":
        raise get.error("tfc", "is constant, which aggfrag off excludes", "Set aggfrag to auto")
    return Tfc(mode, octets, rate)


def _has_ppk(get: Record) -> bool:
    """Return whether there is a PPK. One setting without the other is then found missing."""
    return any(get.record.get(key) is not None for key in ("ppk_id", "ppk_file"))


def _check_needs(get: Record, authentication: str) -> None:
    """Raise ConfigError where what the authentication needs is missing, or another's is there."""
    for method, key in _NEEDS.items():
        value = get.record.get(key)
        if method == authentication and value is None:
            raise get.error(key, "is missing", f"Authentication by {method} needs it")
        if method != authentication and value not in (None, []):
            raise get.error(key, f"is for authentication {method}", f"Drop it, or set {method}")


def connection_to_dict(connection: ConnectionConfig) -> dict[str, Any]:
    """Return connection as a JSON object that connection_from_dict reads back as its equal."""
    record: dict[str, Any] = {}
    for field in fields(ConnectionConfig):
        value = getattr(connection, field.name)
        if isinstance(value, tuple):
            value = [_plain(item) for item in value]
        record[field.name] = _plain(value)
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Gateway):
        return {**asdict(value), "public_keys": list(value.public_keys)}
    return str(value) if isinstance(value, Path) else value


def daemon_from_dict(record: dict[str, Any], where: str = "moatd.json") -> DaemonConfig:
    """Return the daemon's settings that record describes; raise ConfigError naming the field."""
    get = Record(where, record, tuple(f.name for f in fields(DaemonConfig)))
    paths = {
        key: get.path(key)
        for key in ("private_key", "connections", "control_socket", "state", *_OTHER_PATHS)
        if key in record or key == "private_key"
    }
    if len(os.fsencode(paths.get("control_socket", ""))) > _LONGEST_SOCKET_PATH:
        why = f"is longer than the {_LONGEST_SOCKET_PATH} octets of a socket's path"
        raise get.error("control_socket", why, "Give a shorter one")
    ports = get.ports("ports", _USUAL_PORTS)
    if ports != _USUAL_PORTS and get.record.get("data_plane", "python") != "python":
        why = "are others than 500 and 4500, which the kernel's data plane cannot have"
        raise get.error("ports", why, "Drop it, or set data_plane to python")
    return DaemonConfig(
        identity=get.text("identity", FQDN, "a domain name in lower case"),
        tunnel_interface=(
            get.text("tunnel_interface", re.compile(r"[a-z][a-z0-9-]{0,14}"), "an interface's name")
            if "tunnel_interface" in record
            else "moat0"
        ),
        log_level=get.choice("log_level", LOG_LEVELS, "info"),
        crls=get.paths("crls") if "crls" in record else (),
        wild_addresses=get.wild_addresses("wild_addresses"),
        data_plane=get.choice("data_plane", DATA_PLANES, "python"),
        workers=get.choice("workers", WORKERS, "auto"),
        ports=ports,
        **paths,
    )
