"""moat-fleet as operators and playbooks meet it: words, exit codes, JSON."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_words import options
from typer.testing import Result

Fleet = Callable[..., Result]
Texts = dict[str, str]

ROOT = Path(__file__).resolve().parents[3]


def write_csv(path: Path, rows: list[Texts]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def output(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def with_portal(fleet: Fleet, portal_texts: Texts) -> Fleet:
    assert fleet("init").exit_code == 0
    added = fleet("portal", "add", portal_texts["portal"], *options(portal_texts, "portal"))
    assert added.exit_code == 0, added.stderr
    return fleet


def test_the_lab_from_nothing(with_portal: Fleet) -> None:
    """The commands that the lab's database is made with."""
    customers = ROOT / "molecule" / "default" / "customers.csv"
    found = output(with_portal("customer", "import", "--csv", str(customers), "--json"))
    (record,) = found["customers"]
    assert found["changed"] is True
    assert record["private_subnet"] == "10.201.1.0/24"
    assert record["private_subnet6"] == "fd00:201:1::/64"
    assert record["moat"] == "m0001.moats.example.net"
    assert [each["customer"] for each in output(with_portal("customer", "list", "--json"))] == [
        "c0001"
    ]


def test_the_example_is_importable(with_portal: Fleet) -> None:
    example = ROOT / "inventory" / "example.csv"
    found = output(with_portal("customer", "import", "--csv", str(example), "--json"))
    assert [each["private_subnet"] for each in found["customers"]] == [
        "10.201.1.0/24",
        "10.201.2.0/24",
        "10.201.3.0/24",
    ]


def test_init_twice(fleet: Fleet) -> None:
    assert output(fleet("init", "--json"))["changed"] is True
    assert output(fleet("init", "--json"))["changed"] is False


def test_no_database_is_one_line(fleet: Fleet, url: str) -> None:
    result = fleet("customer", "list")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"moat-fleet: {url}")
    assert result.stderr.endswith("there is no customer database. Run `moat-fleet init`\n")


def test_add_show_set_list(with_portal: Fleet, customer: Callable[..., Texts]) -> None:
    texts = customer(7, name="[red]Ada[/red] Ünïcode")
    record = output(with_portal("customer", "add", "c0007", *options(texts, "customer"), "--json"))[
        "customer"
    ]
    assert record["private_subnet"] == "10.201.1.0/24"
    assert record["status"] == "ordered"
    shown = output(with_portal("customer", "show", "c0007", "--json"))
    assert shown["name"] == "[red]Ada[/red] Ünïcode"
    assert shown["public_keys"] == []
    assert "[red]Ada[/red] Ünïcode" in with_portal("customer", "show", "c0007").stdout
    assert "[red]Ada[/red] Ünïcode" in with_portal("customer", "list").stdout
    change = ("customer", "set", "c0007", "--status", "shipped", "--json")
    assert output(with_portal(*change))["changed"] is True
    assert output(with_portal(*change))["changed"] is False
    shipped = with_portal("customer", "list", "--status", "shipped", "--json")
    assert [each["customer"] for each in output(shipped)] == ["c0007"]
    assert output(with_portal("customer", "list", "--status", "active", "--json")) == []


def test_a_fault_is_one_line_that_names_the_field(
    with_portal: Fleet, customer: Callable[..., Texts]
) -> None:
    texts = customer(7, wild_mac="nonsense")
    result = with_portal("customer", "add", "c0007", *options(texts, "customer"))
    assert result.exit_code == 1
    assert result.stderr == (
        "moat-fleet: customer c0007, field wild_mac: 'nonsense' is not a MAC address. "
        "Write it as on the label, such as 02:00:5e:10:00:01\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("customer", "add", "c1"),
        ("customer", "frobnicate"),
        ("portal", "show"),
        ("customer", "import"),
    ],
)
def test_wrong_usage_is_2(fleet: Fleet, words: tuple[str, ...]) -> None:
    assert fleet(*words).exit_code == 2


def test_keys(with_portal: Fleet, key: Callable[[int], str]) -> None:
    record = ("key", "record", "portal1.example.net")
    assert output(with_portal(*record, key(1), "--json")) == {
        "changed": True,
        "identity": "portal1.example.net",
        "public_key": key(1),
    }
    assert output(with_portal(*record, key(1), "--json"))["changed"] is False
    refused = with_portal(*record, key(2), "--json")
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "Add --replace" in refused.stderr
    assert output(with_portal(*record, key(2), "--replace", "--json"))["changed"] is True
    listed = output(with_portal("key", "list", "--json"))
    assert [(each["public_key"], each["valid"]) for each in listed] == [
        (key(1), False),
        (key(2), True),
    ]
    assert key(2) in with_portal("portal", "show", "portal1.example.net").stdout
    wrong = with_portal(*record, key(3), "--not-after", "tomorrow")
    assert wrong.exit_code == 1
    assert "field not_after: 'tomorrow'" in wrong.stderr


def test_fifty_rows_one_of_them_wrong(
    with_portal: Fleet, customer: Callable[..., Texts], tmp_path: Path
) -> None:
    rows = [customer(number, wild_mac="") for number in range(1, 51)]
    rows[30]["wild_mac"] = "02:00:5e:10:00"
    result = with_portal("customer", "import", "--csv", str(write_csv(tmp_path / "c.csv", rows)))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"{tmp_path}/c.csv, row 32, column wild_mac: '02:00:5e:10:00' is not" in result.stderr
    assert output(with_portal("customer", "list", "--json")) == []
    rows[30]["wild_mac"] = "02:00:5e:10:00:01"
    again = with_portal("customer", "import", "--csv", str(write_csv(tmp_path / "c.csv", rows)))
    assert again.stdout == f"{tmp_path}/c.csv: 50 customers imported\n"
    assert len(output(with_portal("customer", "list", "--json"))) == 50


def test_every_wrong_row_is_told_at_once(
    with_portal: Fleet, customer: Callable[..., Texts], tmp_path: Path
) -> None:
    rows = [customer(number, private_subnet="") for number in range(1, 11)]
    rows[8]["moat"] = rows[2]["moat"]
    rows[3]["private_subnet"] = "10.99.0.0/24"
    rows[5]["name"] = ""
    rows[5]["isp"] = ""
    result = with_portal("customer", "import", "--csv", str(write_csv(tmp_path / "c.csv", rows)))
    lines = result.stderr.splitlines()
    places = [line.split(": ")[1].removeprefix(f"{tmp_path}/c.csv, ") for line in lines[:-1]]
    assert places == [
        "row 5, column private_subnet",
        "row 7, column name",
        "row 7, column isp",
        "row 10, column moat",
    ]
    assert "4 faults, nothing was changed" in lines[-1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "column customer: is missing"),
        ("customer,name,isp,portal,moat,colour\n", "row 1, column colour: is not a field"),
        ("customer,customer,name,isp,portal,moat\n", "column customer: stands there twice"),
        ("customer,name,isp,portal,moat\nc1,A,B\n", "row 2, column isp: the row has 3 cells"),
        ("customer,name,isp,portal,moat\nc1,A,B,C,D,E\n", "row 2, column moat: the row has 6"),
        ('customer,name,isp,portal,moat\nc1,"A', "is not CSV"),
    ],
)
def test_files_that_are_no_customers(
    with_portal: Fleet, tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text)
    result = with_portal("customer", "import", "--csv", str(path))
    assert result.exit_code == 1
    assert why in result.stderr


def test_a_spreadsheet_may_leave_its_marks(with_portal: Fleet, tmp_path: Path) -> None:
    """A byte order mark, line ends of two characters, an empty row, a row of commas."""
    path = tmp_path / "c.csv"
    text = (
        "customer,name,isp,portal,moat\r\n\r\n,,,,\r\nc1, Ada ,B,portal1.example.net,m.example\r\n"
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    result = with_portal("customer", "import", "--csv", str(path), "--json")
    assert output(result)["customers"][0]["name"] == "Ada"
    again = with_portal("customer", "import", "--csv", str(path))
    assert "row 4, column customer: c1 is there already" in again.stderr


def test_a_file_that_cannot_be_read(with_portal: Fleet, tmp_path: Path) -> None:
    absent = with_portal("customer", "import", "--csv", str(tmp_path / "none.csv"))
    assert "cannot be read (No such file or directory)" in absent.stderr
    (tmp_path / "latin.csv").write_bytes(b"customer,name\nc1,\xe9\n")
    latin = with_portal("customer", "import", "--csv", str(tmp_path / "latin.csv"))
    assert "is not UTF-8" in latin.stderr


@pytest.mark.parametrize(
    "words", [("-m", "moatvpn.fleet.cli"), ("-c", "from moatvpn.fleet.cli import main; main()")]
)
def test_the_program_itself(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The database named by the environment; as playbooks and as the entry point start it."""
    program = [sys.executable, *words, "init"]
    environment = {"MOAT_DATABASE": f"{tmp_path}/x.sqlite", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(program, env=environment, check=True, capture_output=True)
    assert done.stdout.decode() == f"sqlite:///{tmp_path}/x.sqlite: made\n"


def test_nothing_else_in_the_package_imports_the_fleet() -> None:
    """A box has neither SQLAlchemy nor Typer."""
    package = ROOT / "src" / "moatvpn"
    fleet = package / "fleet"
    others = [path for path in package.rglob("*.py") if fleet not in path.parents]
    assert len(others) > 5
    assert [path for path in others if "moatvpn.fleet" in path.read_text()] == []
