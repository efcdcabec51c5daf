"""The keys of every SA, written for Wireshark: for a laboratory, and never for a box at work.

Whoever reads these files reads the traffic. They are off unless moatd.json names a directory in
`insecure_write_keys_for_wireshark`; moatd then says so at every start and in every status. The
directory is one that Wireshark takes as its own (WIRESHARK_CONFIG_DIR): it finds the tables
`ikev2_decryption_table` and `esp_sa` there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from moatvpn.crypto.keymat import IkeKeys
from moatvpn.daemon.log import LogCall
from moatvpn.errors import OperatorError
from moatvpn.esp.child import ChildSa
from moatvpn.wire.algorithms import CipherSuite

MOST_OCTETS = 16 << 20  # of each table: strangers, too, make keys for it
# Wireshark's names of what protects IKE, and envelopes: cipher, and integrity algorithm.
_IKE_NAMES = {
    CipherSuite.AES_256_GCM: ("AES-GCM-256 with 16 octet ICV [RFC5282]", "NONE [RFC4306]"),
    CipherSuite.AES_128_GCM: ("AES-GCM-128 with 16 octet ICV [RFC5282]", "NONE [RFC4306]"),
    CipherSuite.AES_256_CBC_SHA2_512: ("AES-CBC-256 [RFC3602]", "HMAC_SHA2_512_256 [RFC4868]"),
    CipherSuite.AES_256_CBC_SHA2_256: ("AES-CBC-256 [RFC3602]", "HMAC_SHA2_256_128 [RFC4868]"),
    CipherSuite.AES_128_CBC_SHA2_256: ("AES-CBC-128 [RFC3602]", "HMAC_SHA2_256_128 [RFC4868]"),
}
_ESP_NAMES = {
    CipherSuite.AES_256_GCM: ("AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
    CipherSuite.AES_128_GCM: ("AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
    CipherSuite.AES_256_CBC_SHA2_512: ("AES-CBC [RFC3602]", "HMAC-SHA-512-256 [RFC4868]"),
    CipherSuite.AES_256_CBC_SHA2_256: ("AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"),
    CipherSuite.AES_128_CBC_SHA2_256: ("AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"),
}


class KeyLog:
    """Appends keys to Wireshark's tables in directory, which must be its owner's alone.

    Raises OperatorError where it is not, or cannot be written.
    """

    def __init__(self, directory: Path, log: LogCall) -> None:
        self._log = log
        self._full: set[str] = set()
        what = f"insecure_write_keys_for_wireshark {directory}"
        try:
            mode = stat.S_IMODE(os.stat(directory).st_mode)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            remedy = "Make it for moatd's user, mode 0700, or take the setting away"
            raise OperatorError(what, f"cannot be opened ({error.strerror})", remedy) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            os.close(self._directory)
            raise OperatorError(what, f"has mode {mode:04o}, which lets others in", "chmod 0700 it")
        log("warning", f"INSECURE: the keys of all traffic are written to {directory}")

    def ike(self, spi_i: bytes, spi_r: bytes, keys: IkeKeys) -> None:
        """Write the keys of an IKE SA."""
        names = _IKE_NAMES.get(keys.suite)
        if names is None:
            self._append("ikev2_decryption_table", f"# {keys.suite.value}: Wireshark has no name")
            return
        parts = [_split(keys.suite, material) for material in (keys.sk_i, keys.sk_r)]
        (sk_ei, sk_ai), (sk_er, sk_ar) = parts
        fields = [spi_i.hex(), spi_r.hex(), sk_ei.hex(), sk_er.hex(), f'"{names[0]}"']
        fields += [sk_ai.hex(), sk_ar.hex(), f'"{names[1]}"']
        self._append("ikev2_decryption_table", ",".join(fields))

    def child(self, child: ChildSa) -> None:
        """Write the keys of both directions of a CHILD_SA."""
        names = _ESP_NAMES.get(child.suite)
        if names is None:
            self._append("esp_sa", f"# {child.suite.value}: Wireshark has no name")
            return
        for spi, material in ((child.spi_in, child.key_in), (child.spi_out, child.key_out)):
            key, integrity = _split(child.suite, material)
            texts = ["IPv4", "*", "*", f"{spi:#010x}", names[0], f"0x{key.hex()}", names[1]]
            texts.append(f"0x{integrity.hex()}" if integrity else "")
            self._append("esp_sa", ",".join(f'"{text}"' for text in texts))

    def _append(self, name: str, line: str) -> None:
        """Append a line to a table; what the disk does not take is left out, and said once."""
        if name in self._full:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(name, flags, 0o600, dir_fd=self._directory), "ab") as file:
                if file.tell() < MOST_OCTETS:
                    file.write(line.encode() + b"\n")
                    return
            why = "is full"
        except OSError as error:
            why = f"cannot be written ({error.strerror})"
        self._full.add(name)
        self._log("warning", f"keys for Wireshark: {name} {why}; no more of them")

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._directory)


def _split(suite: CipherSuite, material: bytes) -> tuple[bytes, bytes]:
    """Return the cipher's key, with its salt, and the integrity key of keying material."""
    end = suite.key_length + suite.salt_length
    return material[:end], material[end:]
