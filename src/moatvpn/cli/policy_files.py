"""The operator's files: policies, customers, signing keys. Everything here runs on a controller."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moatvpn.config_fields import FQDN, Record, short
from moatvpn.crypto.seal import Seal, is_encrypted, load_seal
from moatvpn.daemon.keyfile import read_private, sync_directory
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.policy.rules import NAME, NAME_SHAPE, Customer
from moatvpn.policy.signed import open_policy
from moatvpn.signed import read_public_keys
from moatvpn.subnets import parse_network


def read_octets(path: Path) -> bytes:
    """Return what is in the file at path; raise OperatorError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise OperatorError(str(path), why, "Check that it exists, and who may read it") from error


def read_text(path: Path) -> str:
    """Return the text in the file at path; raise OperatorError where there is none."""
    try:
        return read_octets(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise OperatorError(str(path), "is not UTF-8", "Save it as UTF-8 text") from error


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put content into the file at path, whole or not at all; raise OperatorError where not."""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(content)
                file.flush()
                os.fsync(fd)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
        raise OperatorError(str(path), why, "Make its directory, and run as its owner") from error


def expected_policies(policies: Path, public_keys: Path) -> dict[str, str]:
    """Return the hash of each signed policy in a directory, by the identity of its box.

    Raises OperatorError where one is not signed by one of the keys in the file public_keys.
    """
    keys = read_public_keys(public_keys)
    expected = {}
    for path in sorted(policies.glob("*.policy")):
        signed = open_policy(read_octets(path), keys, str(path))
        expected[signed.compiled.identity] = signed.digest
    return expected


def read_seal(path: Path, passphrase_file: Path | None) -> Seal:
    """Return the signing key in the file at path, which its owner alone may read.

    Its passphrase is in passphrase_file, or is asked for. Raises OperatorError where the key
    cannot be had, and where it lies unencrypted in a git repository.
    """
    what = f"signing key {path}"
    pem = read_private(path, what, f"Make one with `moat-policy keygen {path}`")
    encrypted = is_encrypted(pem)
    if not encrypted and any((parent / ".git").exists() for parent in path.resolve().parents):
        why = "is not encrypted, and lies in a git repository"
        raise OperatorError(what, why, "Make a new one with `moat-policy keygen`")
    try:
        return load_seal(pem, read_passphrase(passphrase_file) if encrypted else None)
    except OperatorError as error:
        raise OperatorError(what, error.why, error.remedy) from error


def read_passphrase(file: Path | None, *, twice: bool = False) -> bytes:
    """Return a passphrase out of a private file, or asked for.

    Raises OperatorError where there is none, or an empty one.
    """
    if file is not None:
        what = f"passphrase file {file}"
        found = read_private(file, what, "Name a file that holds it").rstrip(b"\r\n")
    else:
        try:
            found = getpass.getpass("Passphrase of the signing key: ").encode()
            if twice and getpass.getpass("Once more: ").encode() != found:
                raise OperatorError("passphrase", "was another one the second time", "Try again")
        except EOFError as error:
            remedy = "Name a file with --passphrase-file"
            raise OperatorError("passphrase", "cannot be asked for here", remedy) from error
    if not found:
        raise OperatorError("passphrase", "is empty", "Give one: the key rests encrypted")
    return found


def read_customers(file: Path | None) -> tuple[Customer, ...]:
    """Return all customers: out of what `moat-fleet customer list --json` has put into file.

    Without file, that is asked now, of the database that moat-fleet knows. Raises OperatorError
    where there is no such list.
    """
    where = "moat-fleet customer list" if file is None else str(file)
    text = _ask_fleet() if file is None else read_text(file)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"is not JSON ({error})"
        raise OperatorError(
            where, why, "Give what `moat-fleet customer list --json` says"
        ) from error
    if not isinstance(rows, list) or not rows:
        raise OperatorError(where, "lists no customers", "Add them with moat-fleet, or name a list")
    return tuple(_customer(row, f"{where}: customer {n}") for n, row in enumerate(rows, 1))


def customer_of(customers: tuple[Customer, ...], name: str) -> Customer:
    """Return the customer of that id; raise OperatorError where there is none."""
    for customer in customers:
        if customer.id == name:
            return customer
    remedy = "See `moat-fleet customer list`"
    raise OperatorError(f"customer {short(name)}", "is not in the database", remedy)


def _customer(row: Any, where: str) -> Customer:
    if not isinstance(row, Mapping):
        raise ConfigError(where, "is no JSON object", "Give what moat-fleet says")
    record = Record(where, dict(row), tuple(row))
    networks = [record.record[key] for key in ("private_subnet", "private_subnet6")
                if record.record.get(key)]  # fmt: skip
    try:
        subnets = tuple(parse_network(network) for network in networks)
    except (ValueError, AttributeError) as error:
        raise ConfigError(where, f"has no private subnet ({error})", "Mend the record") from error
    if not subnets:
        raise ConfigError(where, "has no private subnet", "Give it one with moat-fleet")
    return Customer(
        id=record.text("customer", NAME, NAME_SHAPE),
        profile=record.text("policy", NAME, NAME_SHAPE),
        identity=record.text("moat", FQDN, "a name such as moat1.example.net"),
        subnets=subnets,
    )


def _ask_fleet() -> str:
    # The one that was installed beside this program, else any.
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    program = shutil.which("moat-fleet", path=beside)
    if program is None:
        remedy = "Install moatvpn[fleet], or name a list with --customers"
        raise OperatorError("moat-fleet", "is not installed here", remedy)
    words = [program, "customer", "list", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = f"failed: {done.stderr.strip() or done.returncode}"
        raise OperatorError("moat-fleet customer list", why, "Name a list with --customers")
    return done.stdout
