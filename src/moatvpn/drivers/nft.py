"""The program nft, which tells the kernel of rules, and us of the kernel's."""

from __future__ import annotations

import subprocess

from moatvpn.errors import OperatorError

NFT = "/usr/sbin/nft"
_SECONDS = 60  # for one call of it


def run_nft(*words: str, program: str = NFT, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run nft with words, and given as its input; return how it ended and what it has said.

    Raises OperatorError where it does not run, or does not end.
    """
    try:
        return subprocess.run(
            [program, *words],
            input=given, capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError(program, f"does not run ({error})", "Install nftables") from error
