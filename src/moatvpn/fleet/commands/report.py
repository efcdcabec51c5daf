"""moat-fleet report: the fleet in figures, as a page for people who don't run it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from moatvpn.cli.policy_files import expected_policies, write_whole
from moatvpn.errors import OperatorError
from moatvpn.fleet.commands.common import Json, now
from moatvpn.fleet.show import print_json, print_line


def report(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="The file; an older one is replaced.")],
    days: Annotated[int, typer.Option(help="How far to look ahead.", min=0, max=3660)] = 30,
    policies: Annotated[
        Path | None, typer.Option(help="A directory of the signed policies to be in force.")
    ] = None,
    policy_keys: Annotated[
        Path | None, typer.Option(help="A file of the public keys that these are signed by.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the fleet's figures as one HTML page, which names customers: for its owner alone."""
    # These take as long to import as all else.
    from moatvpn.fleet.report import make_figures
    from moatvpn.fleet.report_page import render

    if (policies is None) != (policy_keys is None):
        why = "one is given without the other"
        raise OperatorError("--policies and --policy-keys", why, "Give both or none")
    wanted = None
    if policies is not None and policy_keys is not None:
        wanted = expected_policies(policies, policy_keys)
    with context.obj.read() as session:
        figures = make_figures(session, now(), timedelta(days=days), wanted)
    write_whole(output, render(figures).encode("utf-8"), 0o600)
    if as_json:
        print_json({"file": str(output), "customers": sum(figures.statuses.values())})
    else:
        print_line(f"{output}: written")
