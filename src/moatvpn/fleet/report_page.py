"""The page of a report: one HTML file that loads nothing, runs nothing, and can be printed.

Whatever stands in the database is text to the template (autoescape), and the browser is told to
load and run nothing at all but the one style sheet that is in the page (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moatvpn.fleet.report import GOOD_UP_TIME, Figures

# Lines of a table, so that a page stays one: the report tells the whole number.
MOST_LINES = 15
_UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a plot. All but label and value are in units of the plot's view box."""

    label: str
    value: int
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Return where its label stands."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Plot:
    """Columns side by side on a base line, each with its value above and its label below."""

    WIDTH = 480
    HEIGHT = 170
    BASE = 138
    _TOP = 22

    columns: Sequence[Column]

    @classmethod
    def of(cls, values: Mapping[str, int]) -> Plot:
        """Return the plot of the values, which are in the order of their labels."""
        most = max(values.values(), default=0) or 1
        step = cls.WIDTH / max(1, len(values))
        columns = []
        for number, (label, value) in enumerate(values.items()):
            # What there is one of among thousands can be seen.
            height = max(1.5, (cls.BASE - cls._TOP) * value / most) if value else 0.0
            place = (step * (number + 0.14), cls.BASE - height, step * 0.72, height)
            columns.append(Column(label, value, *(round(each, 1) for each in place)))
        return cls(columns)


def render(figures: Figures) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("moatvpn.fleet", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "loss": _loss,
        "share": _share,
        "foldable": _foldable,
    }
    style = files("moatvpn.fleet").joinpath("templates", "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        figures=figures,
        customers=sum(figures.statuses.values()),
        lapsing=sum(ending.lapses for ending in figures.endings),
        ages=Plot.of(figures.key_ages),
        periods=Plot.of(figures.periods),
        most_missed=max((1 - (isp.up_time or 0.0) for isp in figures.isps), default=0.0),
        most_loss=max((isp.loss or 0.0 for isp in figures.isps), default=0.0),
        good=GOOD_UP_TIME,
        most=MOST_LINES,
        # Ours, from beside the template; a hash in the policy lets this one in, and no other.
        style=Markup(style),  # noqa: S704
        style_hash=f"sha256-{digest}",
    )


def _number(value: int) -> str:
    return f"{value:,}"


def _percent(part: float | None) -> str:
    """Return a part as a percentage that is never rounded up: 100 % is all of it."""
    return _UNKNOWN if part is None else f"{math.floor(part * 10_000 + 1e-6) / 100:.2f} %"


def _loss(part: float | None) -> str:
    """Return a part as a percentage that is never rounded down to nothing."""
    return _UNKNOWN if part is None else f"{math.ceil(part * 10_000 - 1e-6) / 100:.2f} %"


def _share(value: float, whole: float) -> float:
    """Return the length of a bar, of 100, that value has in whole."""
    return round(100 * value / whole, 1) if whole else 0.0


def _foldable(identity: str) -> Markup:
    """Return a name that a narrow page may break behind its dots."""
    return Markup(".<wbr>").join(identity.split("."))
