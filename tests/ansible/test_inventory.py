"""The inventory plugin, through ansible-inventory as operators run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_bench import MOAT, PORTAL, Run, key


def listed(run: Run, **changes: str | None) -> dict[str, Any]:
    words = ("ansible-inventory", "--inventory", "inventory/moat.yml", "--list")
    done = run(*words, **changes)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout, object_hook=_plain)
    return found


def _plain(value: dict[str, Any]) -> Any:
    """Take a text out of the mark that says it is no template."""
    return value["__ansible_unsafe"] if set(value) == {"__ansible_unsafe"} else value


def test_the_lab(lab: Run) -> None:
    found = listed(lab)
    assert {name: group["hosts"] for name, group in found.items() if "hosts" in group} == {
        "moats": [MOAT],
        "portals": [PORTAL],
        "portal_portal1_example_net": [MOAT],
        "status_active": [MOAT],
        "isp_access_network": [MOAT],
    }
    variables = found["_meta"]["hostvars"]
    moat, portal = variables[MOAT], variables[PORTAL]
    assert moat["ansible_host"] == "10.201.1.1"
    assert moat["moat_private_address"] == "10.201.1.1/24"
    assert moat["moat_private_address6"] == "fd00:201:1::1/64"
    assert moat["moat_private_interface"] == "home0"
    assert portal["portal_pool6"] == "fd00:201::/32"
    (up,), (down,) = moat["moatvpn_connections"], portal["moatvpn_connections"]
    assert (up["name"], up["remote_address"], up["initiate"]) == ("portal1", "198.51.100.2", True)
    # Ansible looks at each value of each host: what is the default is left out.
    assert down.keys() == up.keys() - {"remote_address", "initiate"}
    assert down["name"] == "c0001"
    assert (up["remote_public_keys"], down["remote_public_keys"]) == ([key(1)], [key(2)])
    assert up["local_selectors"] == down["remote_selectors"] == ["10.201.1.0/24", "fd00:201:1::/64"]


def test_a_second_look_is_the_same(lab: Run) -> None:
    assert listed(lab) == listed(lab)


def test_what_a_customer_is_called_is_never_a_template(lab: Run, tmp_path: Path) -> None:
    """The ISP's name is the one free text that gets near Ansible: as a group's name."""
    name = "{{ lookup('pipe', 'touch pwned') }}"
    assert lab("moat-fleet", "customer", "set", "c0001", "--isp", name).returncode == 0
    assert "isp_lookup_pipe_touch_pwned" in listed(lab)
    assert not (tmp_path / "pwned").exists()


def test_the_source_may_name_the_database(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "inventory" / "moat.yml").write_text("plugin: moat\ndatabase: ../moat.sqlite\n")
    assert MOAT in listed(lab, MOAT_DATABASE="sqlite:////nowhere/moat.sqlite")["_meta"]["hostvars"]


def test_the_default_is_in_the_current_directory(lab: Run) -> None:
    assert listed(lab, MOAT_DATABASE=None)["moats"]["hosts"] == [MOAT]


def test_found_by_the_plugin_key_alone(lab: Run) -> None:
    assert MOAT in listed(lab, ANSIBLE_INVENTORY_ENABLED="auto")["moats"]["hosts"]


def test_no_database_says_what_to_run(run: Run) -> None:
    done = run("ansible-inventory", "--inventory", "inventory/moat.yml", "--list")
    assert done.returncode != 0
    assert "there is no customer database. Run `moat-fleet init`" in done.stderr


def test_an_unknown_setting_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "inventory" / "moat.yml").write_text("plugin: moat\ndatabase: [1]\n")
    done = run("ansible-inventory", "--inventory", "inventory/moat.yml", "--list")
    assert done.returncode != 0
    assert "database" in done.stderr


def test_its_documentation(run: Run) -> None:
    done = run("ansible-doc", "--type", "inventory", "--json", "moat")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)["moat"]
    assert document["doc"]["options"].keys() >= {"plugin", "database", "limited", "cache"}
    assert "plugin: moat" in document["examples"]
