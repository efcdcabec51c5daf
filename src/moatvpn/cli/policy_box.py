"""What happens to a policy on a moat: verified, checked by nft, put in force, told of, taken away.

A policy that is refused, or that nft does not take, leaves the one in force where it is. The
version never goes back, even after a policy has been taken away.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moatvpn.cli.policy_files import read_octets, read_text, write_whole
from moatvpn.config import daemon_from_dict, load_json
from moatvpn.config_fields import Record, object_from_json
from moatvpn.drivers.conntrack import forget
from moatvpn.drivers.nft import NFT, run_nft
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.lockdown.ruleset import POLICY_CHAIN, TABLE
from moatvpn.policy.readback import is_loaded
from moatvpn.policy.render import render
from moatvpn.policy.rules import MOST_VERSION
from moatvpn.policy.signed import Signed, open_policy
from moatvpn.signed import read_public_keys
from moatvpn.subnets import Network

# Where the lockdown ruleset takes policies in.
_HOOK = re.compile(r'^include "[^"\n]*/policy\.d/\*\.nft"$', re.MULTILINE)
_FRAGMENT = "50-policy.nft"


@dataclass(frozen=True, slots=True)
class Box:
    """Where a moat has its settings, and what it remembers of policies."""

    settings: Path = Path("/etc/moatvpn")
    state: Path = Path("/var/lib/moat-policy")
    nft: str = NFT

    @property
    def public_keys(self) -> Path:
        """Return the file of the operator's public keys."""
        return self.settings / "policy.pub"

    @property
    def lockdown(self) -> Path:
        """Return the file of the lockdown ruleset, which includes the fragment."""
        return self.settings / "lockdown.nft"

    @property
    def fragment(self) -> Path:
        """Return the file of the rules in force."""
        return self.settings / "policy.d" / _FRAGMENT

    @property
    def signed(self) -> Path:
        """Return the signed file that the rules in force were made of."""
        return self.state / "in-force"

    @property
    def newest(self) -> Path:
        """Return the file that says which version is the newest that this box has had."""
        return self.state / "newest.json"


def install(box: Box, path: Path) -> tuple[bool, Signed]:
    """Put the signed policy at path in force; return whether that changed anything, and the policy.

    Raises ConfigError where it is not signed by the operator, not for this box, older than what
    this box has had, or another one of the same version; OperatorError where nft or a file
    refuses. Then what was in force still is.
    """
    data = read_octets(path)
    signed = open_policy(data, read_public_keys(box.public_keys), str(path))
    identity = daemon_from_dict(load_json(box.settings / "moatd.json"), "moatd.json").identity
    if signed.compiled.identity != identity:
        why = f"is for {signed.compiled.identity}, and this is {identity}"
        raise ConfigError(str(path), why, "Bring each box its own policy")
    with _locked(box):
        _check_version(box, signed, path)
        if not _faults(box, signed):
            return False, signed
        _put_in_force(box, data, signed)
    return True, signed


def remove(box: Box) -> bool:
    """Take the policy away, so that everything goes through the tunnel; return whether one was.

    It needs no signature, for it opens nothing. Raises OperatorError where nft refuses.
    """
    with _locked(box):
        loaded = _loaded_rules(box)
        old = _sources_in_force(box)
        if not box.fragment.exists() and not box.signed.exists() and not loaded:
            return False
        # The files first: what is loaded now is what every later start loads.
        for path in (box.fragment, box.signed):
            path.unlink(missing_ok=True)
        _nft(box, "-f", str(box.lockdown))
        forget(old)
    return True


def show(box: Box) -> dict[str, Any]:
    """Return what this box has in force: version and hash, and the faults that say otherwise.

    The hash is of the signed file, and the files and the kernel's ruleset are held against it; the
    policy is whole where faults is empty. Without a policy, hash is empty.
    """
    state: dict[str, Any] = {"hash": "", "version": 0, "newest": 0, "faults": []}
    try:
        state["newest"] = _newest(box)[0]
        if not box.signed.exists():
            if box.fragment.exists() or _loaded_rules(box):
                state["faults"] = ["rules are in force that no signed policy is there for"]
            return state
        signed = open_policy(
            read_octets(box.signed), read_public_keys(box.public_keys), str(box.signed)
        )
        compiled = signed.compiled
        return state | {
            "name": compiled.name,
            "version": compiled.version,
            "customer": compiled.customer,
            "identity": compiled.identity,
            "hash": signed.digest,
            "rules": len(compiled.rules),
            "faults": _faults(box, signed),
        }
    except OperatorError as error:
        return state | {"faults": [str(error)]}


@contextmanager
def _locked(box: Box) -> Iterator[None]:
    """Keep other moat-policys away; the block's OSErrors become OperatorErrors."""
    fd = -1
    try:
        box.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        box.fragment.parent.mkdir(mode=0o755, exist_ok=True)
        fd = os.open(box.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    except OSError as error:
        why = f"cannot be changed ({error.strerror})"
        raise OperatorError(f"policy in {box.state}", why, "Run as root") from error
    finally:
        if fd >= 0:
            os.close(fd)


def _check_version(box: Box, signed: Signed, path: Path) -> None:
    version, digest = _newest(box)
    new = signed.compiled.version
    if new < version:
        why = f"is version {new}, and this box has had version {version}"
        raise ConfigError(str(path), why, "Raise the version in the source, and sign it again")
    if new == version and signed.digest != digest:
        why = f"is version {new} like the one that this box has had, and another one"
        raise ConfigError(str(path), why, "Raise the version in the source, and sign it again")


def _newest(box: Box) -> tuple[int, str]:
    """Return version and hash of the newest policy that this box has had; 0 where it had none."""
    try:
        text = box.newest.read_bytes()
    except FileNotFoundError:
        return 0, ""
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise OperatorError(str(box.newest), why, "Run as root") from error
    record = Record(str(box.newest), object_from_json(text, str(box.newest)), ("version", "hash"))
    version = record.amount("version", (1, MOST_VERSION), "versions")
    return version, record.text("hash", re.compile(r"[0-9a-f]{64}"), "a hash")


def _put_in_force(box: Box, data: bytes, signed: Signed) -> None:
    """Check the rules, then change files and kernel; all of it is as it was where one refuses."""
    fragment = render(signed.compiled, signed.digest)
    lockdown, hooks = _HOOK.subn(lambda _: fragment, read_text(box.lockdown))
    if hooks != 1:
        why = f"has {hooks} places for a policy, not one"
        raise OperatorError(str(box.lockdown), why, "Run site.yml, which writes it")
    _nft(box, "-c", "-f", "-", given=lockdown)
    old = _sources_in_force(box)
    newest = json.dumps({"version": signed.compiled.version, "hash": signed.digest})
    with _restoring(box.newest, box.signed, box.fragment):
        # The version first: whatever happens, nothing older is taken from here on.
        write_whole(box.newest, newest.encode(), 0o600)
        write_whole(box.signed, data, 0o600)
        write_whole(box.fragment, fragment.encode())
        _nft(box, "-f", str(box.lockdown))
    # What the new rules decide otherwise, they shall decide at once, and not when it has ended.
    forget(None if old is None else {*old, *signed.compiled.sources})


def _sources_in_force(box: Box) -> tuple[Network, ...] | None:
    """Return whose connections the policy in force is about, None where that cannot be told."""
    if not box.signed.exists():
        return () if not _loaded_rules(box) else None
    try:
        keys = read_public_keys(box.public_keys)
        return open_policy(read_octets(box.signed), keys, str(box.signed)).compiled.sources
    except OperatorError:
        return None


@contextmanager
def _restoring(*paths: Path) -> Iterator[None]:
    """Put the files back as they were where the block does not end well."""
    before = [(path, path.read_bytes() if path.exists() else None) for path in paths]
    try:
        yield
    except BaseException:
        for path, content in before:
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, content, path.stat().st_mode & 0o777 if path.exists() else 0o600)
        raise


def _faults(box: Box, signed: Signed) -> list[str]:
    """Return in what the box is not as the policy says; nothing where it is."""
    faults = []
    compiled = signed.compiled
    if _content(box.fragment) != render(compiled, signed.digest).encode():
        faults.append(f"{box.fragment} is not what the signed policy says")
    if _newest(box) != (compiled.version, signed.digest):
        faults.append(f"{box.newest} is not what the signed policy says")
    if not is_loaded(_loaded_rules(box), compiled, signed.digest):
        faults.append("the kernel's ruleset is not what the signed policy says")
    return faults


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _loaded_rules(box: Box) -> list[dict[str, Any]]:
    """Return the rules that the kernel has in the policy's chain; none where it has no chain."""
    done = run_nft("-j", "list", "chain", "inet", TABLE, POLICY_CHAIN, program=box.nft)
    if done.returncode != 0:
        return []
    return [each["rule"] for each in json.loads(done.stdout)["nftables"] if "rule" in each]


def _nft(box: Box, *words: str, given: str = "") -> None:
    done = run_nft(*words, program=box.nft, given=given)
    if done.returncode != 0:
        why = f"was refused by nft ({' '.join(done.stderr.split())[:400]})"
        remedy = (
            "Run `nft -c -f /etc/moatvpn/lockdown.nft` to see more; the old ruleset is in force"
        )
        raise OperatorError("policy", why, remedy)
