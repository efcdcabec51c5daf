"""Every seed and every past finding of the fuzzers, taken in once more (see `make fuzz`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import parser_target
import pytest
import responder_target

HERE = Path(__file__).parent
INPUTS = [
    pytest.param(target, path, id=f"{kind}-{name}-{path.name}")
    for name, target in (("parser", parser_target.run), ("responder", responder_target.run))
    for kind in ("corpus", "found")
    for path in sorted((HERE / kind / name).glob("*"))
]


def test_there_is_something_to_take_in() -> None:
    assert len(INPUTS) > 50


@pytest.mark.parametrize(("target", "path"), INPUTS)
def test_an_input(target: Callable[[bytes], None], path: Path) -> None:
    target(path.read_bytes())
