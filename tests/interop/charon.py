"""strongSwan's IKE daemon in a network namespace, with its ESP in user space (kernel-libipsec).

It has a directory of its own for its settings, its credentials and its control socket, so that it
meets neither the machine's own strongSwan nor another test's.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxes import Namespace, run, wait_for
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PLUGINS = (
    "random nonce openssl aes sha1 sha2 hmac kdf gcm chapoly curve25519 pem pkcs1 pkcs8 x509 pubkey"
    " constraints revocation kernel-libipsec kernel-netlink socket-default vici"
)

# The daemon's own name for its section; what it does not find there it looks up in "charon".
SETTINGS = """
charon {{
  load = {plugins}
  retransmit_timeout = 0.5
  retransmit_base = 1.5
  retransmit_tries = 4
  half_open_timeout = 10
  fragment_size = 576
  make_before_break = yes
  rsa_pss = yes
  plugins {{
    vici {{ socket = unix://{directory}/vici }}
  }}
  filelog {{
    file {{
      path = {directory}/log
      flush_line = yes
      time_format = %H:%M:%S
      default = 1
      ike = 2
      esp = 1
      net = 0
      enc = 1
    }}
  }}
}}
charon-systemd {{
  journal {{ default = -1 }}
}}
swanctl {{
  load = openssl pem pkcs1 pkcs8 x509 pubkey
  socket = unix://{directory}/vici
}}
"""

NAME = "net"  # of the connection, and of its first CHILD_SA

Tree = Mapping[str, Any]


def render(tree: Tree, indent: str = "") -> str:
    """Return nested settings in the syntax of swanctl.conf."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key} {{\n{render(value, indent + '  ')}{indent}}}\n")
        else:
            words = value if isinstance(value, str) else ",".join(value)
            lines.append(f"{indent}{key} = {words}\n")
    return "".join(lines)


_TOKEN = re.compile(
    r"(?P<open>[^\s={}\[\]]+) \{"
    r"|(?P<key>[^\s={}\[\]]+)=(?P<value>\[[^\]]*\]|[^\s}]*)"
    r"|(?P<close>\})"
)


def parse_raw(text: str) -> list[dict[str, Any]]:
    """Return the messages in the output of `swanctl --raw`, without their kinds, as dicts."""
    found: list[dict[str, Any]] = []
    stack: list[dict[str, Any]] = []
    for token in _TOKEN.finditer(text):
        if token["open"]:
            inner: dict[str, Any] = {}
            if stack:
                stack[-1][token["open"]] = inner
            stack.append(inner)
        elif token["key"]:
            stack[-1][token["key"]] = token["value"]
        else:
            done = stack.pop()
            if not stack:
                found.append(done)
    return found


class Charon(Namespace):
    """One namespace with a charon in it, which has one connection at a time, called NAME."""

    def __init__(self, namespace: str, directory: Path, identity: str) -> None:
        super().__init__(namespace, directory, identity)
        self.daemon: subprocess.Popen[bytes] | None = None
        settings = SETTINGS.format(plugins=PLUGINS, directory=directory)
        (directory / "strongswan.conf").write_text(settings)
        # Copies, which no AppArmor profile of the machine's keeps from this directory.
        for program in ("charon-systemd", "swanctl"):
            shutil.copy(f"/usr/sbin/{program}", directory / f"{program}.program")
        self._environment = {
            **os.environ,
            "STRONGSWAN_CONF": str(directory / "strongswan.conf"),
            "SWANCTL_DIR": str(directory / "swanctl"),
        }
        key = Ed25519PrivateKey.generate()
        self.write(
            "private/own.pem",
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        public = key.public_key()
        self.write(
            "pubkey/own.pem", public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public_key = base64.b64encode(spki).decode()

    def write(self, place: str, content: bytes) -> None:
        """Write a file into a place of swanctl's directory, such as "x509ca/ca.pem"."""
        path = self.directory / "swanctl" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def remove(self, place: str) -> None:
        """Remove a file, or a directory with all that is in it, from swanctl's directory."""
        path = self.directory / "swanctl" / place
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def write_public_key(self, name: str, text: str) -> None:
        """Write a key, base64 of SubjectPublicKeyInfo, into the file NAME.pem."""
        lines = ["-----BEGIN PUBLIC KEY-----", text, "-----END PUBLIC KEY-----", ""]
        self.write(f"pubkey/{name}.pem", "\n".join(lines).encode())

    def start(self) -> None:
        """Start charon, and wait until it answers."""
        words = {"env": self._environment, "stdout": subprocess.DEVNULL}
        self.daemon = self.popen(
            str(self.directory / "charon-systemd.program"), stderr=subprocess.DEVNULL, **words
        )
        wait_for(lambda: self.swanctl("--stats", check=False).returncode == 0, "charon", 10)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End charon with a signal."""
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        daemon.send_signal(number)
        daemon.wait(10)

    def swanctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run swanctl against this charon."""
        program = str(self.directory / "swanctl.program")
        return run(program, *words, check=check, env=self._environment)

    def load(self, connection: Tree, sections: Tree) -> None:
        """Load the one connection, other sections and credentials in place of all before."""
        tree = {"connections": {NAME: connection}, **sections}
        self.write("swanctl.conf", render(tree).encode())
        self.reload()

    def reload(self) -> None:
        """Load again what was loaded last."""
        self.swanctl("--load-all", "--clear", "--noprompt")

    def initiate(self, child: str = NAME, check: bool = True) -> None:
        """Set up a CHILD_SA, and the IKE SA where there is none."""
        self.swanctl("--initiate", "--child", child, "--timeout", "10", check=check)

    def ike_sas(self) -> list[dict[str, Any]]:
        """Return charon's established IKE SAs, each with its CHILD_SAs under "child-sas".

        One that waits for an IKE_AUTH or a Delete that may never come is not among them.
        """
        messages = parse_raw(self.swanctl("--list-sas", "--raw").stdout)
        every = [sa for message in messages for sa in message.values()]
        return [sa for sa in every if sa["state"] == "ESTABLISHED"]

    def children(self) -> list[dict[str, Any]]:
        """Return charon's CHILD_SAs that are in use."""
        every = [child for sa in self.ike_sas() for child in sa["child-sas"].values()]
        return [child for child in every if child["state"] == "INSTALLED"]

    def close(self) -> None:
        """End charon and remove the namespace."""
        if self.daemon is not None:
            self.kill()
        super().close()
