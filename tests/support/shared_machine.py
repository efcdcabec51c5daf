"""A virtual machine that has this machine's files, so that it runs what this one runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from virtual_machine import VirtualMachine

_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
_MEBIBYTES = 1024


class SharedMachine(VirtualMachine):
    """A machine whose root is this one's, read only but for /run. Needs root.

    Programs are run by inside, which says the line to a shell with that root.
    """

    def __init__(self, directory: Path, modules: Iterable[str] = ()) -> None:
        path = directory / "files"
        with (directory / "virtiofsd").open("wb") as log:
            self._files = subprocess.Popen(
                [_VIRTIOFSD, f"--socket-path={path}", "-o", "source=/",
                 "-o", "cache=always", "-o", "sandbox=chroot"],
                stdout=log, stderr=log,
            )  # fmt: skip
        options = (
            "-m", str(_MEBIBYTES), "-smp", "2",
            "-object", f"memory-backend-memfd,id=memory,size={_MEBIBYTES}M,share=on",
            "-numa", "node,memdev=memory",
            "-chardev", f"socket,id=files,path={path},reconnect=0",
            "-device", "vhost-user-fs-pci,chardev=files,tag=files",
        )  # fmt: skip
        try:
            while not path.exists():
                assert self._files.poll() is None, (directory / "virtiofsd").read_text()
            super().__init__(directory, options, ("virtiofs", *modules))
        except BaseException:
            self._files.kill()
            self._files.wait()
            raise
        self.wait_until_ready()
        for line in (
            "mkdir -p /all && mount -t virtiofs -o ro files /all",
            "mount --bind /proc /all/proc && mount --bind /sys /all/sys",
            "mount --bind /dev /all/dev && mount -t tmpfs tmpfs /all/run && mkdir /all/run/tmp",
        ):
            self.run(line)

    def inside(self, line: str, deadline: float) -> tuple[int, str]:
        """Return the status and the output of a line in bash, with this machine's files."""
        quoted = line.replace("'", "'\\''")
        self.say(f"TMPDIR=/run/tmp chroot /all /bin/bash -c '{quoted}'")
        return self.outcome(deadline)

    def close(self) -> None:
        """End the machine, and what shares our files with it."""
        super().close()
        self._files.kill()
        self._files.wait()
