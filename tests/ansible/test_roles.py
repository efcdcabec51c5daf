"""Each role has the same skeleton, and its argument_specs agree with its defaults."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ansible_bench import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
TYPES = {"str": str, "path": str, "bool": bool, "int": int, "list": list, "dict": dict}


class StrictLoader(yaml.SafeLoader):
    """Reads YAML as people do: a key that stands twice in one mapping is a mistake."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        merged = any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value)
        names = [key.value for key, _ in node.value]
        assert not merged, f"{node.start_mark}: a merge hides which value is meant"
        assert len(set(names)) == len(names), f"{node.start_mark}: a key stands twice"
        super().flatten_mapping(node)


def read(role: str, path: str) -> Any:
    return yaml.load((ROOT / "roles" / role / path).read_text(), StrictLoader)  # noqa: S506


def options(role: str) -> dict[str, dict[str, Any]]:
    """Return the options of a role; those of all its entry points are the same."""
    specs = read(role, "meta/argument_specs.yml")["argument_specs"]
    for each in specs.values():
        assert each["short_description"]
        assert each["options"] == specs["main"]["options"]
    found: dict[str, dict[str, Any]] = specs["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_the_skeleton(role: str) -> None:
    base = ROOT / "roles" / role
    for path in (
        "README.md",
        "defaults/main.yml",
        "meta/argument_specs.yml",
        "meta/main.yml",
        "tasks/main.yml",
        "vars/main.yml",
    ):
        assert (base / path).is_file(), path
    notified = {
        name
        for path in (base / "tasks").glob("*.yml")
        for name in re.findall(r"notify: (.*)", path.read_text())
    }
    if notified:
        assert {each["name"] for each in read(role, "handlers/main.yml")} == notified


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_specified_as_they_are(role: str) -> None:
    specified = options(role)
    defaults = read(role, "defaults/main.yml")
    for name, value in defaults.items():
        option = specified[name]
        assert option["default"] == value, name
        assert isinstance(value, TYPES[option["type"]]), name
        assert value in option.get("choices", [value]), name


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_required_or_has_a_default(role: str) -> None:
    defaults = read(role, "defaults/main.yml")
    for name, option in options(role).items():
        assert option["description"].endswith("."), name
        assert bool(option.get("required")) is (name not in defaults), name
        assert ("default" in option) is (name in defaults), name


@pytest.mark.parametrize("role", ROLES)
def test_names_tell_whose_they_are(role: str) -> None:
    # What a box is called is one variable for all roles.
    assert all(name.startswith(f"{role}_") for name in options(role) if name != "moatvpn_identity")
    assert all(name.startswith(f"__{role}_") for name in read(role, "vars/main.yml"))


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_names_every_variable(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text()
    named = set(re.findall(r"^\| `([a-z0-9_]+)` \|", text, re.MULTILINE))
    assert named == set(options(role))
