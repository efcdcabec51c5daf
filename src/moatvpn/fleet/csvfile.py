"""Customers out of a CSV file and into one: which cell is which field, whatever it means."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from moatvpn.cli.policy_files import write_whole
from moatvpn.errors import OperatorError
from moatvpn.fleet.faults import Fault, FaultsError
from moatvpn.fleet.records import CUSTOMER_FIELDS

_KNOWN = tuple(field.name for field in CUSTOMER_FIELDS)
_REQUIRED = tuple(field.name for field in CUSTOMER_FIELDS if field.required)


def read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the customers in the CSV file at path: each one's row number, and texts by column.

    The first row, number 1, names the columns, in any order; a column may be absent if its field
    has a default. UTF-8, with or without a byte order mark; rows without a text are passed over.
    Raises OperatorError for a file that cannot be read, FaultsError for a header or a row that
    does not fit.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise OperatorError(
            str(path), f"cannot be read ({error.strerror})", "Check its name"
        ) from error
    except UnicodeDecodeError as error:
        raise OperatorError(str(path), "is not UTF-8", "Save it as UTF-8") from error
    except csv.Error as error:
        raise OperatorError(
            str(path), f"is not CSV ({error})", "Mend its quotes and commas"
        ) from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    faults = _header_faults(header)
    if faults:
        raise FaultsError(str(path), faults)
    found: list[tuple[int, dict[str, str]]] = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            why = f"the row has {len(row)} cells, the header {len(header)}"
            # What is missing or too much begins behind the last column that both have.
            column = header[min(len(row), len(header)) - 1]
            faults.append(Fault(column, why, "Quote texts that hold a comma", number))
        else:
            found.append((number, dict(zip(header, row, strict=True))))
    if faults:
        raise FaultsError(str(path), faults)
    return found


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write customers, texts by field, as read_rows reads them: the whole file, or none of it.

    Raises OperatorError.
    """
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, _KNOWN)
    writer.writeheader()
    writer.writerows(rows)
    # It tells who lives where.
    write_whole(path, file.getvalue().encode("utf-8"), 0o600)


def _header_faults(header: list[str]) -> list[Fault]:
    remedy = f"Known: {', '.join(_KNOWN)}"
    faults = [
        Fault(column or "(empty)", "is not a field", remedy, 1)
        for column in header
        if column not in _KNOWN
    ]
    faults += [
        Fault(column, "stands there twice", "Remove one", 1)
        for column in sorted({each for each in header if header.count(each) > 1})
    ]
    faults += [
        Fault(column, "is missing", "Add the column", 1)
        for column in _REQUIRED
        if column not in header
    ]
    return faults
