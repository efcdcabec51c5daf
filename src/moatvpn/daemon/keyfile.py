"""The file of a box's private key. The key never leaves it but into the daemon's memory."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moatvpn.crypto.sign import Signer, generate_private_key, load_private_key
from moatvpn.errors import OperatorError

_LONGEST = 64 << 10


def read_private(path: Path, what: str, remedy: str) -> bytes:
    """Return what is in a file that its owner alone may read.

    what names it in errors. Raises OperatorError where it cannot be read, with remedy, or where it
    is open to group or others.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError(what, f"cannot be read ({error.strerror})", remedy) from error
    with open(fd, "rb") as file:
        # The open file is asked, not the path, which might become another file meanwhile.
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            why = f"has mode {mode:04o}, which lets others have it"
            raise OperatorError(what, why, "chmod 0600 it; make a new key if it was read")
        return file.read(_LONGEST)


def read_signer(path: Path) -> Signer:
    """Return the key in the file at path.

    Raises OperatorError where the file cannot be read, is open to group or others, or holds no
    private key that we can use.
    """
    what = f"private key {path}"
    remedy = f"Make one with `moatctl identity create --private-key {path}`"
    pem = read_private(path, what, remedy)
    try:
        return load_private_key(pem)
    except OperatorError as error:
        raise OperatorError(what, error.why, error.remedy) from error


def old_key(path: Path) -> Path:
    """Return where the key is that the one at path has replaced, while that is not proved yet."""
    return path.with_name(path.name + ".old")


def next_key(path: Path) -> Path:
    """Return where the key is that is to replace the one at path."""
    return path.with_name(path.name + ".next")


def read_signers(path: Path) -> tuple[Signer, ...]:
    """Return the key at path and, if it has one, the key that it has replaced.

    Raises OperatorError as read_signer does.
    """
    signer = read_signer(path)
    if not old_key(path).exists():
        return (signer,)
    old = read_signer(old_key(path))
    return (signer,) if old.public_key == signer.public_key else (signer, old)


def create_key_file(path: Path) -> bool:
    """Make a new private key in a file at path, mode 0600; return False where a file is there.

    Raises OperatorError where it cannot be made.
    """
    return create_private(path, generate_private_key)


def create_private(path: Path, generate: Callable[[], bytes]) -> bool:
    """Make a private file of what generate gives, mode 0600; return False where a file is there.

    The file appears whole or not at all, and one that is there is never written over. Whatever ends
    this leaves no second copy: what was begun is no key yet, and the next call takes it away.
    Raises OperatorError where it cannot be made.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with locked(path.parent):
            if os.path.lexists(new):
                new.unlink()
            if os.path.lexists(path):
                return False
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(generate())
                file.flush()
                os.fsync(fd)
            new.rename(path)
            sync_directory(path.parent)
    except OSError as error:
        raise OperatorError(
            f"private key {path}",
            f"cannot be made ({error.strerror})",
            "Make its directory, and run as its owner",
        ) from error
    return True


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep others who lock the same directory from its files meanwhile; raise OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk; raise OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
