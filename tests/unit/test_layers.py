"""The rooms of src/moatvpn and what may be imported in them (docs/design.md, "Shape")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "moatvpn"
CORE = ("wire", "crypto", "esp", "ike")
# A core takes bytes and `now`: it opens nothing, waits for nothing, asks no clock, draws no lots.
FORBIDDEN_IN_CORE = {
    "socket", "asyncio", "time", "datetime", "selectors", "select", "threading", "subprocess",
    "os", "random", "secrets", "logging",
    "moatvpn.drivers", "moatvpn.daemon", "moatvpn.cli", "moatvpn.fleet",
}  # fmt: skip
# The rooms of ours that each room of the core may look into; besides them, values that all share.
MAY_IMPORT = {
    "wire": {"wire"},
    "crypto": {"crypto", "wire"},
    "esp": {"esp", "crypto", "wire"},
    "ike": {"ike", "crypto", "wire"},
}
SHARED = {
    "moatvpn.config", "moatvpn.counters", "moatvpn.deadlines", "moatvpn.errors",
    "moatvpn.esp.child",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that the file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            assert node.module is not None
            # `from package import module` imports a module, too.
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def files(room: str) -> list[Path]:
    found = sorted((SOURCE / room).rglob("*.py"))
    assert found, f"no files in {room}"
    return found


def everything() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", [p for room in CORE for p in files(room)], ids=name_of)
def test_the_core_does_no_input_or_output(path):
    wrong = {n for n in imported(path) for bad in FORBIDDEN_IN_CORE if within(n, bad)}
    assert wrong == set()


@pytest.mark.parametrize("path", [p for room in CORE for p in files(room)], ids=name_of)
def test_the_core_looks_only_into_the_rooms_that_it_may(path):
    allowed = {f"moatvpn.{room}" for room in MAY_IMPORT[path.relative_to(SOURCE).parts[0]]} | SHARED
    ours = {n for n in imported(path) if within(n, "moatvpn")}
    assert {n for n in ours if not any(within(n, good) for good in allowed)} == set()


@pytest.mark.parametrize("path", files("policy"), ids=name_of)
def test_a_policy_is_compiled_and_read_without_input_or_output(path):
    wrong = {n for n in imported(path) for bad in FORBIDDEN_IN_CORE if within(n, bad)}
    assert wrong == set()


@pytest.mark.parametrize("path", everything(), ids=name_of)
def test_all_cryptography_is_in_crypto(path):
    if path.parent.name == "crypto":
        return
    assert {n for n in imported(path) if within(n, "cryptography")} == set()


@pytest.mark.parametrize("path", everything(), ids=name_of)
def test_only_operators_tools_see_the_database(path):
    if path.is_relative_to(SOURCE / "fleet"):
        return
    outside = {"sqlalchemy", "alembic", "typer", "rich", "moatvpn.fleet"}
    assert {n for n in imported(path) for bad in outside if within(n, bad)} == set()


@pytest.mark.parametrize("path", everything(), ids=name_of)
def test_nothing_asserts_on_what_it_is_given(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []
