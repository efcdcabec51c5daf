"""What is wrong with what an operator gave: one fault a line, each naming its field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from moatvpn.errors import OperatorError


@dataclass(frozen=True, slots=True)
class Fault:
    """One value that cannot be accepted.

    field names it as records and CSV columns do; why and remedy are for a person. row is the
    row of a CSV file (its header is row 1), None for a value from the command line.
    """

    field: str
    why: str
    remedy: str
    row: int | None = None

    def at_row(self, row: int) -> Fault:
        """Return this fault as one of that row."""
        return replace(self, row=row)

    def line(self, where: str) -> str:
        """Return the fault as one line about where, such as a file's or a customer's name."""
        place = (
            f"field {self.field}" if self.row is None else f"row {self.row}, column {self.field}"
        )
        return f"{where}, {place}: {self.why}. {self.remedy}"


class FaultsError(OperatorError):
    """Faults in one request, all of them at once; nothing of the request was done."""

    def __init__(self, where: str, faults: Iterable[Fault]) -> None:
        # In the order of the file; faults of one row keep the order they were found in.
        self.faults = tuple(sorted(faults, key=lambda fault: fault.row or 0))
        self.where = where
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(where, f"{count}, nothing was changed", "Mend them and try again")

    def lines(self) -> list[str]:
        """Return a line for each fault, and behind several one that sums them up."""
        lines = [fault.line(self.where) for fault in self.faults]
        return lines if len(lines) == 1 else [*lines, str(self)]
