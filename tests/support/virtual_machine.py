"""Virtual machines: Debian's kernel in QEMU's emulation, run by words over a serial line."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from initramfs import Initramfs, module_files

ROOT = Path(__file__).parents[2]
_VIRTIO = ("virtio_pci", "virtio_net")

# The first process: loads the modules, then does what comes over the second serial line. After
# each line it says how that went.
_INIT = b"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
# From here on busybox's shell finds its own programs; those added are called by their path.
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules); do insmod "/$module"; done
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
printf '\\nstatus 0\\n'
while read -r line; do
    eval "$line"
    printf '\\nstatus %d\\n' $?
done
"""


class VirtualMachine:
    """A machine that runs from this object's making to close. It needs no privilege.

    directory is for its files. options are for QEMU; modules are loaded beside those of virtio;
    programs of this machine are there besides those of busybox.
    """

    def __init__(
        self,
        directory: Path,
        options: Iterable[str] = (),
        modules: Iterable[str] = (),
        programs: Iterable[str] = (),
    ) -> None:
        made = subprocess.run([ROOT / "scripts/kernel-image"], capture_output=True, check=False)
        assert made.returncode == 0, made.stderr.decode()
        kernel = Path(made.stdout.decode().strip())
        files = module_files(kernel, (*_VIRTIO, *modules))
        root = Initramfs()
        for file in files:
            root.add(file.name, file.read_bytes())
        root.add("modules", "\n".join(file.name for file in files).encode())
        root.add("init", _INIT)
        root.add("bin/busybox", Path("/bin/busybox").read_bytes())
        for program in programs:
            root.add_program(program)
        (directory / "initramfs").write_bytes(root.archive())
        ours, theirs = socket.socketpair()
        self._console = directory / "console"
        words = [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-reboot",
            "-display", "none", "-kernel", str(kernel / "vmlinuz"),
            "-initrd", str(directory / "initramfs"),
            "-append", "console=ttyS0 quiet panic=-1 nokaslr mitigations=off",
            "-serial", f"file:{self._console}",
            "-chardev", f"socket,id=words,fd={theirs.fileno()}", "-serial", "chardev:words",
            *options,
        ]  # fmt: skip
        with theirs:
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
        self._line = ours
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the machine."""
        self._process.kill()
        self._process.wait()
        self._line.close()

    def say(self, line: str) -> None:
        """Have the machine's shell do a line; outcome tells how it went."""
        self._line.sendall(line.encode() + b"\n")

    def outcome(
        self, deadline: float = 20.0, meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[int, str]:
        """Return the status and output of the line said before, within deadline seconds.

        meanwhile is called again and again while the machine is at it.
        """
        end = time.monotonic() + deadline
        self._line.settimeout(0.02)
        while b"\nstatus " not in self._heard or not self._heard.endswith(b"\n"):
            assert time.monotonic() < end, f"no answer; {self._told()}"
            meanwhile()
            try:
                heard = self._line.recv(1 << 16)
            except TimeoutError:
                continue
            assert heard, f"the machine has ended; {self._told()}"
            self._heard += heard.replace(b"\r", b"")
        output, _, status = self._heard.decode(errors="replace").rpartition("\nstatus ")
        self._heard = b""
        return int(status), output

    def run(self, line: str, deadline: float = 20.0) -> str:
        """Have the machine's shell do a line, which must succeed; return its output."""
        self.say(line)
        status, output = self.outcome(deadline)
        assert status == 0, f"{line}: {output}"
        return output

    def wait_until_ready(self, deadline: float = 60.0) -> None:
        """Wait until the machine takes its first line."""
        status, output = self.outcome(deadline)
        assert status == 0, output

    def _told(self) -> str:
        console = self._console.read_text(errors="replace") if self._console.exists() else ""
        return f"heard {self._heard!r}, its console says: {console[-2000:]}"
