"""Files that operators are given: whole or not at all, and for their owner alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from moatvpn.errors import OperatorError


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Write a text file, in UTF-8, that takes path's place once the body has ended well.

    It has mode 0600, for what is in it tells who lives where. Raises OperatorError.
    """
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
        raise OperatorError(str(path), why, "Name a file in a directory of yours") from error
