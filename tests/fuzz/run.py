"""Fuzz one target with atheris (libFuzzer), from the corpus in the repository.

    export PYTHONPATH=tests/exchange:tests/support
    python tests/fuzz/run.py parser|responder SECONDS DIRECTORY

New inputs go to DIRECTORY/corpus; one that breaks the target is written to DIRECTORY and ends the
run with an error. It then belongs in tests/fuzz/found, where every run of the tests takes it in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent

with atheris.instrument_imports(include=["moatvpn"]):
    import parser_target
    import responder_target

TARGETS = {"parser": parser_target.run, "responder": responder_target.run}
LONGEST = {"parser": 1024, "responder": 4096}  # octets of an input


def main(name: str, seconds: str, directory: Path) -> None:
    """Fuzz, and exit."""
    (directory / "corpus").mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST[name]}",
        f"-artifact_prefix={directory}/{name}-",
        "-rss_limit_mb=1024",
        "-timeout=10",
        "-print_final_stats=1",
        "-verbosity=1",
        str(directory / "corpus"),
        str(HERE / "corpus" / name),
        *([str(HERE / "found" / name)] if (HERE / "found" / name).exists() else []),
    ]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
