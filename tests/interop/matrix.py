"""The results of tests as a table: a row for each scenario, a column for each direction."""

from __future__ import annotations

import pytest


class Matrix:
    """Gathers reports of tests that have the properties "row" and "column"."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._rows: dict[str, dict[str, tuple[str, float]]] = {}

    def add(self, report: pytest.TestReport) -> None:
        """Take one phase of one test: what fails in any of them has failed."""
        facts = dict(report.user_properties)
        if "row" not in facts:
            return
        row = self._rows.setdefault(str(facts["row"]), {})
        outcome, seconds = row.get(str(facts["column"]), ("passed", 0.0))
        if not report.passed:
            outcome = report.outcome
        # Making the daemons is not the scenario's.
        if report.when == "call":
            seconds += report.duration
        row[str(facts["column"])] = outcome, seconds

    def text(self) -> str:
        """Return the table, and "" where there were no such tests."""
        if not self._rows:
            return ""
        width = max(map(len, self._rows))
        lines = ["  ".join([" " * width, *self._columns])]
        for title, row in self._rows.items():
            cells = []
            for column in self._columns:
                outcome, seconds = row.get(column, ("-", 0.0))
                cell = f"{outcome} {seconds:.1f} s" if column in row else outcome
                cells.append(cell.ljust(len(column)))
            lines.append("  ".join([title.ljust(width), *cells]).rstrip())
        every = [outcome for row in self._rows.values() for outcome, _ in row.values()]
        passed = every.count("passed")
        lines.append(f"{passed} of {len(every)} passed")
        return "\n".join(lines) + "\n"
