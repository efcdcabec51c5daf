"""moat-policy: an operator's policies from source to signature, and a moat's from there to nft."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moatvpn.cli import policy_box
from moatvpn.cli.policy_files import (
    customer_of,
    expected_policies,
    read_customers,
    read_octets,
    read_passphrase,
    read_seal,
    read_text,
    write_whole,
)
from moatvpn.crypto.seal import generate_seal, load_seal
from moatvpn.daemon.keyfile import create_private
from moatvpn.errors import OperatorError
from moatvpn.policy.drift import compare
from moatvpn.policy.rules import compiled_from_bytes, compiled_to_bytes
from moatvpn.policy.signed import digest_of, open_policy, seal_policy
from moatvpn.signed import read_public_keys

if TYPE_CHECKING:
    from moatvpn.policy.language import Policy

REFUSED = 1
USAGE = 2  # argparse's own
DRIFTED = 3

Answer = tuple[dict[str, Any], str]


def _policy(path: Path) -> Policy:
    # A box has no YAML, and never sees a policy's source.
    try:
        from moatvpn.policy.language import read_policy
    except ModuleNotFoundError as error:
        why = f"is not installed here ({error.name})"
        raise OperatorError("moat-policy's compiler", why, "Install moatvpn[fleet]") from error
    return read_policy(read_text(path), str(path))


def _check(arguments: argparse.Namespace) -> Answer:
    policy = _policy(arguments.policy)
    rules, examples = len(policy.rules), len(policy.examples)
    result = {"name": policy.name, "version": policy.version, "rules": rules, "examples": examples}
    text = f"{policy.name}, version {policy.version}: {rules} rules, {examples} examples"
    return result, f"{arguments.policy}: valid: {text}"


def _test(arguments: argparse.Namespace) -> Answer:
    from moatvpn.policy.compile import compile_for_all

    policy, customers = _policy(arguments.policy), read_customers(arguments.customers)
    ran = sum(count for _, count in compile_for_all(policy, customers))
    text = f"{len(policy.examples)} examples hold, {ran} times for {len(customers)} customers"
    return {"customers": len(customers), "ran": ran}, f"{arguments.policy}: {text}"


def _compile(arguments: argparse.Namespace) -> Answer:
    from moatvpn.policy.compile import compile_for_all, compile_policy

    policy, customers = _policy(arguments.policy), read_customers(arguments.customers)
    if arguments.all:
        made = [compiled for compiled, _ in compile_for_all(policy, customers)]
    else:
        made = [compile_policy(policy, customer_of(customers, arguments.customer))]
    for compiled in made:
        path = arguments.output / f"{compiled.identity}.json"
        write_whole(path, compiled_to_bytes(compiled))
    hashes = {compiled.identity: digest_of(compiled) for compiled in made}
    return {"hashes": hashes}, f"{len(made)} compiled into {arguments.output}, none signed yet"


def _keygen(arguments: argparse.Namespace) -> Answer:
    passphrase = read_passphrase(arguments.passphrase_file, twice=True)
    pem = generate_seal(passphrase)
    if not create_private(arguments.key, lambda: pem):
        why = "is there already, and is never written over"
        raise OperatorError(str(arguments.key), why, "Name another file")
    public_key = load_seal(pem, passphrase).public_text
    return {"changed": True, "public_key": public_key}, public_key


def _sign(arguments: argparse.Namespace) -> Answer:
    compiled = [compiled_from_bytes(read_octets(path), str(path)) for path in arguments.files]
    seal = read_seal(arguments.key, arguments.passphrase_file)
    for path, policy in zip(arguments.files, compiled, strict=True):
        write_whole(path.with_suffix(".policy"), seal_policy(policy, seal))
    hashes = {policy.identity: digest_of(policy) for policy in compiled}
    return {"hashes": hashes}, f"{len(compiled)} signed, each beside what it was made of"


def _verify(arguments: argparse.Namespace) -> Answer:
    keys = read_public_keys(arguments.public_keys)
    signed = open_policy(read_octets(arguments.file), keys, str(arguments.file))
    policy = signed.compiled
    result = {
        "name": policy.name,
        "version": policy.version,
        "customer": policy.customer,
        "identity": policy.identity,
        "hash": signed.digest,
    }
    text = f"{policy.name}, version {policy.version}, for {policy.identity}: {signed.digest}"
    return result, f"{arguments.file}: signed by the operator: {text}"


def _install(arguments: argparse.Namespace) -> Answer:
    changed, signed = policy_box.install(_box(arguments), arguments.file)
    version = signed.compiled.version
    text = f"policy version {version}: {'in force' if changed else 'was in force already'}"
    return {"changed": changed, "version": version, "hash": signed.digest}, text


def _remove(arguments: argparse.Namespace) -> Answer:
    changed = policy_box.remove(_box(arguments))
    text = "policy: taken away" if changed else "policy: there was none"
    return {"changed": changed}, f"{text}; everything goes through the tunnel"


def _show(arguments: argparse.Namespace) -> Answer:
    state = policy_box.show(_box(arguments))
    return state, "\n".join(f"{key}: {_words(value)}" for key, value in state.items())


def _words(value: object) -> str:
    return ("; ".join(value) or "none") if isinstance(value, list) else str(value) or "none"


def _drift(arguments: argparse.Namespace) -> Answer:
    expected = expected_policies(arguments.policies, arguments.public_keys)
    reported = {
        path.name: read_octets(path) for path in sorted(arguments.facts.iterdir()) if path.is_file()
    }
    drifted = compare(expected, reported)
    lines = [f"{identity}: {why}" for identity, why in drifted.items()]
    text = "\n".join(lines) or f"{len(reported)} boxes are as they should be"
    return {"drifted": drifted, "status": DRIFTED if drifted else 0}, text


def _box(arguments: argparse.Namespace) -> policy_box.Box:
    return policy_box.Box(settings=arguments.settings, state=arguments.state)


def parser() -> argparse.ArgumentParser:
    """Return the parser of moat-policy's command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="answer with one JSON object")
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("policy", type=Path, help="the policy's source, in YAML")
    customers = argparse.ArgumentParser(add_help=False)
    customers.add_argument(
        "--customers", type=Path, help="what `moat-fleet customer list --json` has said"
    )
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument(
        "--passphrase-file", type=Path, help="a file of mode 0600; else it is asked"
    )
    signed = argparse.ArgumentParser(add_help=False)
    signed.add_argument("file", type=Path, help="a signed policy")
    keys = argparse.ArgumentParser(add_help=False)
    default = policy_box.Box()
    keys.add_argument("--public-keys", type=Path, default=default.public_keys)
    box = argparse.ArgumentParser(add_help=False)
    box.add_argument("--settings", type=Path, default=default.settings)
    box.add_argument("--state", type=Path, default=default.state)

    top = argparse.ArgumentParser(
        prog="moat-policy",
        description="What of a home's traffic may go straight to the internet.",
        epilog="Exit status: 0 done, 1 refused, 2 wrong usage, 3 boxes have drifted.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(word: str, run: object, about: str, *parents: argparse.ArgumentParser) -> Any:
        made = commands.add_parser(word, help=about, description=about, parents=[*parents, common])
        made.set_defaults(run=run)
        return made

    command("check", _check, "say whether a policy's source is valid", source)
    command("test", _test, "run a policy's examples for all customers", source, customers)
    compiling = command("compile", _compile, "make the rules for boxes", source, customers)
    whose = compiling.add_mutually_exclusive_group(required=True)
    whose.add_argument("--customer", help="for this customer's moat")
    whose.add_argument("--all", action="store_true", help="for every customer's moat")
    compiling.add_argument("--output", type=Path, required=True, help="a directory")
    making = command("keygen", _keygen, "make a signing key, and show its public key", secret)
    making.add_argument("key", type=Path, help="the file to make")
    signing = command("sign", _sign, "sign compiled policies", secret)
    signing.add_argument("files", type=Path, nargs="+", help="what `compile` has written")
    signing.add_argument("--key", type=Path, required=True, help="the signing key's file")
    command("verify", _verify, "say whether the operator signed a policy", signed, keys)
    command("install", _install, "put a signed policy in force on this box", signed, box)
    command("remove", _remove, "take this box's policy away", box)
    command("show", _show, "say which policy this box has in force", box)
    drift = command("drift", _drift, "say which boxes have another policy in force", keys)
    drift.add_argument("--policies", type=Path, required=True, help="a directory of signed ones")
    drift.add_argument("--facts", type=Path, required=True, help="a directory of boxes' facts")
    return top


def main(words: list[str] | None = None) -> int:
    """Run moat-policy; return its exit status: 0, 1 refused, 2 usage, 3 boxes have drifted."""
    arguments = parser().parse_args(words)
    try:
        result, text = arguments.run(arguments)
    except OperatorError as error:
        print(f"moat-policy: {error}", file=sys.stderr)
        return REFUSED
    status = int(result.pop("status", 0))
    print(json.dumps(result) if arguments.json else text)
    return status


if __name__ == "__main__":
    sys.exit(main())
