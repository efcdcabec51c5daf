"""The page of a report as a browser has it: nothing loaded, nothing run, the database's figures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from browser import Browser, browser

from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.observations import record_observations
from moatvpn.fleet.playbooks import Answers
from moatvpn.fleet.report import Figures, make_figures
from moatvpn.fleet.report_page import render
from moatvpn.fleet.store import add_customers, add_portal

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
# What would be seen in the page's requests, its complaints or its title, if it were markup.
HOSTILE = (
    '<img src="http://192.0.2.1/x" onerror="document.title=1"><script>document.title=2</script>'
)
PORTAL = "portal1.example.net"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture
def figures(
    sqlite_template: Path,
    portal_texts: dict[str, str],
    customer: Callable[..., dict[str, str]],
    tmp_path: Path,
) -> Figures:
    database = Database(
        database_url(shutil.copy(sqlite_template, tmp_path / "moat.sqlite").as_posix())
    )
    given = [customer(1, status="active", name=HOSTILE, isp=HOSTILE), customer(2, status="active")]
    rows = [
        {"name": "c0001", "state": "waiting", "up_for": None, "expected_in": 1000, "lost_in": 17},
        {"name": "c0002", "state": "established", "up_for": 1e6},
    ]
    heard = {PORTAL: {"version": "0123abcd", "running": True, "connections": rows}}
    with database.write() as session:
        add_portal(session, portal_texts, NOW)
        add_customers(session, [(None, each) for each in given], "file", NOW)
        for hours in range(2):
            record_observations(session, Answers(heard, {}), NOW + timedelta(hours=hours))
        made = make_figures(session, NOW + timedelta(hours=1), timedelta(days=30))
    database.close()
    return made


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_holds_the_figures_and_loads_nothing(
    shown: Browser, figures: Figures, tmp_path: Path, width: int
) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(figures))
    shown.open(page.as_uri(), width, dark=width == 400)
    assert list(shown.requests.values()) == [page.as_uri()]
    assert shown.complaints == []
    assert shown.text("title") == "Moat fleet, 1 May 2026"
    assert shown.text("#customers") == "2"
    assert shown.text("#up") == "1"
    assert shown.text("#up-time") == "50.00 %"
    assert [row[:2] for row in shown.table("statuses")] == [
        [status, str(count)] for status, count in figures.statuses.items()
    ]
    assert [row[:3] for row in shown.table("versions")] == [["0123abcd", "0", "1"]]
    assert [[row[n] for n in (0, 1, 2, 3, 5, 7)] for row in shown.table("isps")] == [
        [HOSTILE, "1", "0", "1", "0.00 %", "1.70 %"],
        ["Example Cable", "1", "1", "0", "100.00 %", "-"],
    ]
    assert shown.table("troubles") == [["c0001", HOSTILE, HOSTILE, "down", "0.00 %"]]
    assert shown.table("ages") == [[age, str(count)] for age, count in figures.key_ages.items()]
    assert [row[0] for row in shown.table("pending")] == [each.identity for each in figures.pending]
    # Neither markup of a customer's nor a page wider than the window.
    assert shown.value_of("document.querySelectorAll('img, script').length") == 0
    assert shown.value_of("document.documentElement.scrollWidth") <= width
    # The style is in force: the policy's hash is that of the style sheet.
    assert shown.value_of("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
    back = shown.value_of("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", back))) < 100) == (width == 400)


def test_the_policy_of_the_page_holds_off_what_is_in_it_nevertheless(
    shown: Browser, figures: Figures, tmp_path: Path
) -> None:
    """As if a name had got into the page as markup: it loads nothing, and runs nothing."""
    page = tmp_path / "report.html"
    page.write_text(render(figures).replace("<main>", f"<main>{HOSTILE}", 1))
    shown.open(page.as_uri(), 1280)
    assert shown.value_of("document.querySelectorAll('img, script').length") == 2
    assert shown.text("title") == "Moat fleet, 1 May 2026"
    assert list(shown.requests.values()) == [page.as_uri(), *shown.blocked]
    assert shown.blocked == ["http://192.0.2.1/x"]
    assert "Content Security Policy" in " ".join(shown.complaints)
