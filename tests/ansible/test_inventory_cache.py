"""The inventory plugin's cache and what it makes of --limit, through the programs of Ansible."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_bench import MOAT, PORTAL, Run, key

SHOW = "msg={{ [groups.moats, hostvars[inventory_hostname]] }}"


@pytest.fixture
def cached(lab: Run, tmp_path: Path) -> Run:
    """The lab, with a cache in the directory cache."""
    (tmp_path / "inventory" / "moat.yml").write_text(
        "plugin: moat\ncache: true\ncache_plugin: jsonfile\ncache_connection: cache\n"
    )
    return lab


def connections(run: Run) -> list[dict[str, Any]]:
    """Return the portal's connections, as Ansible has them."""
    words = ("--inventory", "inventory/moat.yml", "--host", PORTAL)
    done = run("ansible-inventory", *words)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["moatvpn_connections"]
    return found


def cache_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache").iterdir()
    return file


def test_what_is_kept_is_served(cached: Run, tmp_path: Path) -> None:
    (before,) = connections(cached)
    file = cache_file(tmp_path)
    file.write_text(file.read_text().replace('"c0001', '"c9999').replace("c0001", "c9999"))
    (after,) = connections(cached)
    assert after == before | {"name": "c9999"}


def test_it_is_its_owners_alone(cached: Run, tmp_path: Path) -> None:
    connections(cached)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE(cache_file(tmp_path).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o750])
def test_a_directory_that_others_get_at_is_refused(cached: Run, tmp_path: Path, mode: int) -> None:
    """Who puts an inventory there decides what is run where."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    done = cached("ansible-inventory", "--inventory", "inventory/moat.yml", "--list")
    assert done.returncode != 0
    assert "it is not yours alone" in done.stderr
    assert "chmod 700" in done.stderr
    assert not list((tmp_path / "cache").iterdir())


def test_a_revoked_customers_key_is_never_served(cached: Run) -> None:
    assert len(connections(cached)) == 1
    assert cached("moat-fleet", "customer", "revoke", "c0001", "--yes", "--no-push").returncode == 0
    assert connections(cached) == []


def test_nor_one_that_was_taken_out_by_hand(cached: Run, tmp_path: Path) -> None:
    assert len(connections(cached)) == 1
    with sqlite3.connect(tmp_path / "moat.sqlite") as database:
        database.execute("UPDATE public_keys SET not_after = not_before WHERE key = ?", (key(2),))
    database.close()
    assert connections(cached) == []


def test_nor_one_whose_time_is_over(cached: Run, tmp_path: Path) -> None:
    """Nothing changes in the database then, but what was kept has its end."""
    words = ("key", "record", MOAT, key(2), "--not-after", "2098-01-01")
    assert cached("moat-fleet", *words).returncode == 0
    assert len(connections(cached)) == 1
    file = cache_file(tmp_path)
    text = file.read_text()
    assert "2098-01-01T00:00:00+00:00" in text
    # As if that moment had come: what is kept is not asked any more.
    file.write_text(text.replace("2098-01-01", "2020-01-01").replace("c0001", "c9999"))
    assert [each["name"] for each in connections(cached)] == ["c0001"]


def test_another_database_has_a_cache_of_its_own(cached: Run, tmp_path: Path) -> None:
    assert len(connections(cached)) == 1
    other = f"sqlite:///{tmp_path}/other.sqlite"
    assert cached("moat-fleet", "init", MOAT_DATABASE=other).returncode == 0
    words = ("--inventory", "inventory/moat.yml", "--list")
    done = cached("ansible-inventory", *words, MOAT_DATABASE=other)
    assert "portal1" not in done.stdout


def seen(run: Run, limit: str, **changes: str) -> dict[str, list[Any]]:
    """Return what each host of a limit has: the moats that there are, and its variables."""
    words = ("--inventory", "inventory/moat.yml", "--limit", limit)
    done = run("ansible", "all", *words, "--module-name", "debug", "--args", SHOW, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    answers = re.findall(r"^(\S+) \| SUCCESS => (.*?^\})$", done.stdout, re.MULTILINE | re.DOTALL)
    return {host: json.loads(text)["msg"] for host, text in answers}


def test_a_limit_of_names_leaves_out_the_rest(lab: Run, tmp_path: Path) -> None:
    other = "m0002.moats.example.net"
    words = ("customer", "add", "c0002", "--name", "Two", "--isp", "Two", "--portal", PORTAL)
    assert lab("moat-fleet", *words, "--moat", other).returncode == 0
    (tmp_path / "names").write_text(f"{MOAT}\n{PORTAL}\n")
    whole = seen(lab, "all")
    assert set(whole) == {MOAT, other, PORTAL}
    for limit, hosts in ((MOAT, {MOAT}), ("@names", {MOAT, PORTAL})):
        found = seen(lab, limit)
        assert set(found) == hosts
        for host, (moats, variables) in found.items():
            assert variables["moatvpn_connections"] == whole[host][1]["moatvpn_connections"]
            assert moats == [MOAT]
    assert seen(lab, f"{MOAT}:!portals")[MOAT][0] == [MOAT, other]
    assert seen(lab, MOAT, MOAT_INVENTORY_LIMITED="false")[MOAT][0] == [MOAT, other]


def test_no_text_of_the_database_is_a_template(lab: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "moat.sqlite") as database:
        database.execute("UPDATE moats SET wild_interface = '{{ 6 * 7 }}'")
    database.close()
    _, variables = seen(lab, MOAT)[MOAT]
    assert variables["moat_wild_interface"] == "{{ 6 * 7 }}"
