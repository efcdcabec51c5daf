"""How Ansible reaches a machine of the lab: commands and files over podman's standard input.

Modules are piped in, as over ssh to a real machine, so a task costs one process on the machine
and not five. The podman connection of containers.podman cannot do that.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: lab
author: Moat's maintainers
short_description: Run tasks in a container of the lab
description:
  - Runs each task by C(podman exec) as root.
options:
  remote_addr:
    description: The container's name.
    required: true
    vars:
      - name: lab_container
extends_documentation_fragment: [connection_pipelining]
"""


class Connection(ConnectionBase):
    """Connects anew for every command: there is nothing to keep open."""

    transport = "lab"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def close(self) -> None:
        """There is nothing to close."""
        self._connected = False

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a shell's command line; return its exit status, output and error output."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run(
            ["podman", "exec", "-i", self.get_option("remote_addr"), "/bin/sh", "-c", cmd],
            input=in_data or b"",
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the controller's to the machine."""
        super().put_file(in_path, out_path)
        self._must(f"cat > {shlex.quote(out_path)}", Path(in_path).read_bytes())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the machine's to the controller."""
        super().fetch_file(in_path, out_path)
        Path(out_path).write_bytes(self._must(f"cat {shlex.quote(in_path)}"))

    def _must(self, command: str, data: bytes | None = None) -> bytes:
        status, output, error = self.exec_command(command, in_data=data)
        if status:
            raise AnsibleError(f"{command}: {error.decode(errors='replace').strip()}")
        return output
