"""Initial file systems for virtual machines: programs of this one, and modules of their kernel."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

_DIRECTORY, _PROGRAM, _LINK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777


class Initramfs:
    """A tree of files as the kernel unpacks it (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self._members: dict[str, tuple[int, bytes]] = {}

    def add(self, path: str, content: bytes, mode: int = _PROGRAM) -> None:
        """Add a file at path, which has no slash in front, and the directories above it."""
        for parent in reversed(Path(path).parents[:-1]):
            self._members.setdefault(str(parent), (_DIRECTORY, b""))
        self._members[path] = (mode, content)

    def add_program(self, name: str) -> None:
        """Add a program of this machine at its own place, with the libraries that it needs."""
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found is not None, f"{name} is missing: see scripts/setup"
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
        for path in [found, *re.findall(r"(/\S+) \(0x", listed.stdout)]:
            self.add(path.lstrip("/"), Path(path).read_bytes())
        self.add(f"bin/{name}", found.encode(), _LINK)

    def archive(self) -> bytes:
        """Return the whole as a cpio archive of the new format."""
        members = {**self._members, "TRAILER!!!": (0, b"")}
        return b"".join(
            _member(number, path, mode, content)
            for number, (path, (mode, content)) in enumerate(members.items(), start=1)
        )


def _member(number: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def module_files(kernel: Path, names: Iterable[str]) -> list[Path]:
    """Return the files of the named modules and of what they need, in the order of loading.

    kernel is what scripts/kernel-image has made. A module that is part of the kernel has no file.
    """
    (directory,) = (kernel / "lib" / "modules").iterdir()
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        file, _, deeper = line.partition(":")
        # What a module needs is listed with the deepest need last.
        needs[_module(file)] = [*reversed(deeper.split()), file]
    built_in = set(map(_module, (directory / "modules.builtin").read_text().splitlines()))
    files: dict[str, None] = {}
    for name in names:
        files.update(dict.fromkeys(needs[name] if name not in built_in else ()))
    return [directory / file for file in files]


def _module(file: str) -> str:
    return Path(file).stem.replace("-", "_")
