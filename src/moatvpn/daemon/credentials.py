"""Reads the files that the settings name: secrets, our certificate, CAs and CRLs.

A file is parsed once, however many connections name it, and again when it has become another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from moatvpn.config import ConnectionConfig, DaemonConfig
from moatvpn.crypto.certificates import (
    OwnCertificate,
    RevocationList,
    load_certificates,
    load_own_certificate,
    load_revocations,
)
from moatvpn.crypto.sign import Signer
from moatvpn.crypto.trust import TrustAnchors
from moatvpn.daemon.keyfile import read_private, read_signer, read_signers
from moatvpn.daemon.log import LogCall
from moatvpn.errors import OperatorError
from moatvpn.ike.secrets import Certificates, ConnectionSecrets

LEAST_PPK = 32  # octets: half of that is left against a quantum computer (RFC 8784, 6)
LEAST_PSK = 16  # octets: less can be guessed from one recorded exchange (RFC 7296, 2.15)
RENEW_SECONDS = 14 * 86400.0  # before our certificate expires, the log says so at each start
_LONGEST_PSK = 1024
_LONGEST_FILE = 64 << 20

T = TypeVar("T")


def read_file(path: Path, what: str) -> bytes:
    """Return what is in the file at path; raise OperatorError, which names what, where it fails."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        remedy = "Put it there, readable for moatd's user"
        raise OperatorError(what, f"cannot be read ({error.strerror})", remedy) from error
    if len(content) > _LONGEST_FILE:
        raise OperatorError(what, "is too long", f"Give {_LONGEST_FILE >> 20} MiB at most")
    return content


def read_psk(path: Path) -> bytes:
    """Return the pre-shared key in the file at path: its octets, but for a newline at the end.

    Raises OperatorError where the file cannot be read or is open to others, and where the key is
    too short or too long.
    """
    return _read_secret(path, f"pre-shared key {path}", LEAST_PSK)


def read_ppk(path: Path) -> bytes:
    """Return the postquantum pre-shared key in the file at path, as read_psk does."""
    return _read_secret(path, f"postquantum pre-shared key {path}", LEAST_PPK)


def _read_secret(path: Path, what: str, least: int) -> bytes:
    remedy = "Make one with `umask 077; openssl rand -base64 32`, in a file of moatd's user"
    content = read_private(path, what, remedy)
    secret = content.removesuffix(b"\n").removesuffix(b"\r")
    if not least <= len(secret) <= _LONGEST_PSK:
        why = f"has {len(secret)} octets, not {least} to {_LONGEST_PSK}"
        raise OperatorError(what, why, remedy)
    return secret


class _Files(Generic[T]):
    """What was read from files by path, for as long as they stay the same ones."""

    def __init__(self, load: Callable[[Path], T]) -> None:
        self._load = load
        self._known: dict[Path, tuple[tuple[int, ...], T]] = {}

    def get(self, path: Path) -> T:
        """Return what is in the file at path; raise OperatorError as load does."""
        try:
            found = path.stat()
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            return self._load(path)  # which says what is wrong
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        content = self._load(path)
        self._known[path] = stamp, content
        return content

    def last(self, path: Path) -> T | None:
        """Return what was in the file at path the last time that it could be read, or None."""
        known = self._known.get(path)
        return None if known is None else known[1]


def _anchors(path: Path) -> TrustAnchors:
    what = f"CA file {path}"
    return TrustAnchors(load_certificates(read_file(path, what), what), what)


def _revocations(path: Path) -> RevocationList:
    what = f"CRL {path}"
    return load_revocations(read_file(path, what), what)


def own_certificate(config: DaemonConfig, signer: Signer) -> OwnCertificate | None:
    """Return our chain, None where we have no certificate.

    Raises OperatorError where it cannot be read, or is not of our key and identity.
    """
    if config.certificate is None:
        return None
    what = f"certificate {config.certificate}"
    content = read_file(config.certificate, what)
    own = load_own_certificate(content, what, signer.public_key)
    if not own.names(config.identity):
        why = f"has no subjectAltName DNS:{config.identity}, which is our identity"
        raise OperatorError(what, why, "Have it issued with that name")
    return own


def check_daemon_files(config: DaemonConfig) -> None:
    """Raise OperatorError where a file that moatd.json names is not sound."""
    own_certificate(config, read_signer(config.private_key))
    for path in config.crls:
        _revocations(path)


def check_connection_files(config: ConnectionConfig) -> None:
    """Raise OperatorError where a file that a connection names is not sound."""
    if config.psk_file is not None:
        read_psk(config.psk_file)
    if config.ppk_file is not None:
        read_ppk(config.ppk_file)
    for path in config.ca_files:
        _anchors(path)


class Credentials:
    """What connections need beside their settings. wall_clock is seconds since the epoch."""

    def __init__(
        self, config: DaemonConfig, signer: Signer, wall_clock: Callable[[], float], log: LogCall
    ) -> None:
        self._crls = config.crls
        self._private_key = config.private_key
        self._log = log
        self._anchors = _Files(_anchors)
        self._revocations = _Files(_revocations)
        self._wall_clock = wall_clock
        self._said: set[tuple[Path, str]] = set()  # what is wrong with CRLs, until it is mended
        own = own_certificate(config, signer)
        self.certificates = Certificates(own, wall_clock, self.revocations)
        for path in self._crls:
            self._revocations.get(path)  # one that was never sound is not passed over
        if own is not None:
            self._warn_of_period(own)

    def signers(self) -> tuple[Signer, ...]:
        """Return our private keys as they are now; raise OperatorError where that cannot be.

        A certificate is of one key: one that changes would leave it without.
        """
        if self.certificates.own is not None:
            why = "is the certificate's, and cannot change without it"
            raise OperatorError(
                f"private key {self._private_key}", why, "Have a certificate issued, and restart"
            )
        return read_signers(self._private_key)

    def secrets(self, config: ConnectionConfig) -> ConnectionSecrets:
        """Return what belongs to a connection; raise OperatorError where a file is not sound."""
        if config.authentication == "certificate" and self.certificates.own is None:
            why = "wants certificates, and this box has none of its own"
            raise OperatorError(
                f"connection {config.name}", why, "Give certificate in moatd.json, and restart"
            )
        psk = None if config.psk_file is None else read_psk(config.psk_file)
        anchors = [self._anchors.get(path) for path in config.ca_files]
        # Thousands of connections that name the same CA share what was read of it.
        joined = anchors[0] if len(anchors) == 1 else TrustAnchors.joined(anchors)
        ppk = None if config.ppk_file is None else read_ppk(config.ppk_file)
        return ConnectionSecrets(psk, joined if anchors else None, ppk)

    def revocations(self) -> Sequence[RevocationList]:
        """Return the CRLs in force: as their files are now or, while one is broken, were before."""
        found = []
        for path in self._crls:
            broken = ""
            try:
                crl: RevocationList | None = self._revocations.get(path)
            except OperatorError as error:
                crl = self._revocations.last(path)
                broken = f"the CRL read before stays in force: {error}"
            self._say(path, "error", broken)
            if crl is not None:
                found.append(crl)
                late = crl.next_due is not None and crl.next_due < self._wall_clock()
                overdue = f"CRL {path} stays in force, but a newer one is due. Renew the file"
                self._say(path, "warning", overdue if late else "")
        return found

    def _say(self, path: Path, level: str, text: str) -> None:
        """Log what is wrong with a CRL's file, once until it is mended; "" where nothing is."""
        if text and (path, level) not in self._said:
            self._log(level, text)
            self._said.add((path, level))
        elif not text:
            self._said.discard((path, level))

    def _warn_of_period(self, own: OwnCertificate) -> None:
        """Log where our own certificate is not valid by our clock, or will not be for long."""
        (first, last), now = own.period(), self._wall_clock()
        if now < first:
            text = "is not valid yet by our clock. Check the clock (NTP)"
        elif now > last:
            text = "has expired by our clock. Renew it, or check the clock (NTP)"
        elif now > last - RENEW_SECONDS:
            text = f"expires in {(last - now) / 86400:.1f} days. Renew it"
        else:
            return
        self._log("warning", f"our certificate {text}")
