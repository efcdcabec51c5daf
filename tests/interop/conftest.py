"""moatd and charon in both roles, and the matrix of what they did together. Needs root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matrix import Matrix
from meeting import Meeting, arranged

CALLS, ANSWERS = "moatd calls charon", "charon calls moatd"

_matrix = Matrix((CALLS, ANSWERS))


@pytest.fixture(scope="session", params=[CALLS, ANSWERS])
def meeting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Meeting]:
    """Both daemons, each without a connection yet, in one direction after the other."""
    with arranged(tmp_path_factory.mktemp("meeting"), request.param == CALLS) as made:
        yield made


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the test's row and column, where its report and the JUnit file will have them."""
    if isinstance(item, pytest.Function) and "meeting" in item.fixturenames:
        ids = item.callspec.id.replace(str(item.callspec.params["meeting"]), "").strip("-")
        words = item.originalname.removeprefix("test_").replace("_", " ")
        item.user_properties.append(("row", f"{words}: {ids}" if ids else words))
        item.user_properties.append(("column", item.callspec.params["meeting"]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _matrix.add(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    text = _matrix.text()
    if text:
        terminalreporter.section("interoperation with strongSwan")
        terminalreporter.write(text)
        path = terminalreporter.config.rootpath / "build" / "interop.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
