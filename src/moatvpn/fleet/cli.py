"""moat-fleet's entry point."""

from __future__ import annotations

import sys


def main() -> None:
    """Run moat-fleet; exit with 0, 1 for an error it explains in a line, or 2 for wrong usage."""
    try:
        from moatvpn.fleet.commands import app
    except ModuleNotFoundError as error:
        # A box has the package too, but none of what the fleet's tools need.
        sys.exit(f"moat-fleet: {error.name}: is not installed here. Install moatvpn[fleet]")
    app()


if __name__ == "__main__":
    main()
