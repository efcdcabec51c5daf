"""moat-policy from source to signature: what is written, what is refused, and how it says so."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from policies import CUSTOMER, compiled, new_seal, signed, source

from moatvpn.cli.moat_policy import main
from moatvpn.crypto.sign import generate_private_key
from moatvpn.policy.rules import compiled_from_bytes
from moatvpn.policy.signed import digest_of, open_policy

CUSTOMERS = [
    {
        "customer": name,
        "policy": "default",
        "moat": f"moat{number}.example.net",
        "private_subnet": f"10.201.{number}.0/24",
        "private_subnet6": f"fd00:c:{number}::/64",
        "status": "active",
    }
    for number, name in enumerate(["c0001", "c0009"], 1)
]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An operator's directory, with a policy, a list of customers and a passphrase."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yml").write_text(json.dumps(source(), indent=1))
    (tmp_path / "customers.json").write_text(json.dumps(CUSTOMERS))
    (tmp_path / "passphrase").write_text("correct horse\n")
    (tmp_path / "passphrase").chmod(0o600)
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run moat-policy; return its exit status and what it said, of errors or otherwise."""

    def call(*words, json_too=True):
        status = main([*map(str, words), *(["--json"] if json_too else [])])
        out, err = capsys.readouterr()
        assert bool(err) == (status == 1)
        return status, err or (json.loads(out) if json_too else out)

    return call


CUSTOMER_WORDS = ("--customers", "customers.json")


def keygen(run, desk: Path) -> str:
    status, said = run("keygen", "key.pem", "--passphrase-file", "passphrase")
    assert status == 0
    (desk / "policy.pub").write_text(f"# the operator\n{said['public_key']}\n")
    return str(said["public_key"])


def test_a_policy_goes_from_source_to_signature(run, desk):
    public_key = keygen(run, desk)
    assert run("check", "policy.yml")[1]["version"] == 7
    assert run("test", "policy.yml", *CUSTOMER_WORDS) == (0, {"customers": 2, "ran": 5})
    words = ("policy.yml", *CUSTOMER_WORDS, "--all", "--output", "out")
    status, said = run("compile", *words)
    assert status == 0
    files = sorted((desk / "out").glob("*.json"))
    assert [file.name for file in files] == ["moat1.example.net.json", "moat2.example.net.json"]
    made = compiled_from_bytes(files[0].read_bytes(), "here")
    assert said["hashes"]["moat1.example.net"] == digest_of(made) == digest_of(compiled())
    run("sign", *files, "--key", "key.pem", "--passphrase-file", "passphrase")
    file = desk / "out" / "moat1.example.net.policy"
    assert open_policy(file.read_bytes(), [public_key], "here").compiled == made
    status, said = run("verify", file, "--public-keys", "policy.pub")
    assert (status, said["hash"], said["identity"]) == (0, digest_of(made), made.identity)


def test_customers_are_those_of_the_database(run, desk, monkeypatch):
    database = f"sqlite:///{desk}/moat.sqlite"
    monkeypatch.setenv("MOAT_DATABASE", database)
    status, said = run("test", "policy.yml")
    assert status == 1
    assert "moat-fleet customer list" in said
    assert main_of_fleet("init") == 0
    assert "lists no customers" in run("test", "policy.yml")[1]


def main_of_fleet(*words):
    program = "from moatvpn.fleet.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *words], check=False).returncode


def test_one_customer_alone_is_compiled(run, desk):
    run("compile", "policy.yml", *CUSTOMER_WORDS, "--customer", "c0009", "--output", "out")
    assert [file.name for file in (desk / "out").iterdir()] == ["moat2.example.net.json"]


def test_nothing_is_written_where_an_example_fails(run, desk):
    examples = source()["examples"]
    examples["must-block"].append({"who": "everybody", "to": "198.51.100.7", "what": "tcp/443"})
    (desk / "policy.yml").write_text(json.dumps(source(examples=examples), indent=1))
    for words in (("test",), ("compile", "--all", "--output", "out")):
        status, said = run(*words, "policy.yml", *CUSTOMER_WORDS)
        assert status == 1
        assert "expects deny" in said
    assert list((desk / "out").iterdir()) == []


def test_an_example_about_nobody_is_refused(run, desk):
    examples = source()["examples"]
    examples["must-block"].append(
        {"who": {"customers": "c0404"}, "to": "198.51.100.7", "what": "tcp/25"}
    )
    (desk / "policy.yml").write_text(json.dumps(source(examples=examples), indent=1))
    status, said = run("test", "policy.yml", *CUSTOMER_WORDS)
    assert status == 1
    assert "concerns no customer" in said


def test_a_signing_key_rests_encrypted_and_private(run, desk):
    keygen(run, desk)
    key = desk / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    status, said = run("keygen", "key.pem", "--passphrase-file", "passphrase")
    assert (status, "never written over" in said) == (1, True)


def sign(run, desk):
    (desk / "out" / "one.json").write_bytes(b"{}")
    run("compile", "policy.yml", *CUSTOMER_WORDS, "--customer", "c0001", "--output", "out")
    file = desk / "out" / "moat1.example.net.json"
    return run("sign", file, "--key", "key.pem", "--passphrase-file", "passphrase")


def test_a_signing_key_that_others_can_read_is_refused(run, desk):
    keygen(run, desk)
    (desk / "key.pem").chmod(0o640)
    assert "lets others have it" in sign(run, desk)[1]


def test_an_unencrypted_signing_key_in_a_repository_is_refused(run, desk):
    (desk / "key.pem").write_bytes(generate_private_key())
    (desk / "key.pem").chmod(0o600)
    assert sign(run, desk)[0] == 0
    (desk / ".git").mkdir()
    status, said = sign(run, desk)
    assert status == 1
    assert "lies in a git repository" in said


def test_another_passphrase_opens_nothing_and_is_not_told(run, desk):
    keygen(run, desk)
    (desk / "passphrase").write_text("hunter2-hunter2")
    status, said = sign(run, desk)
    assert status == 1
    assert "cannot be opened" in said
    assert "hunter2" not in said


def test_only_compiled_policies_are_signed(run, desk):
    keygen(run, desk)
    (desk / "x.json").write_text('{"version": 1}')
    status, _ = run("sign", "x.json", "--key", "key.pem", "--passphrase-file", "passphrase")
    assert status == 1
    assert not (desk / "x.policy").exists()


def test_another_operators_policy_is_not_ours(run, desk):
    keygen(run, desk)
    (desk / "x.policy").write_bytes(signed(new_seal()))
    status, said = run("verify", "x.policy", "--public-keys", "policy.pub")
    assert status == 1
    assert "not signed by the operator's key" in said


@pytest.mark.parametrize("content", ["", "# none\n", "nonsense\n"])
def test_a_file_without_public_keys_is_refused(run, desk, content):
    (desk / "policy.pub").write_text(content)
    (desk / "x.policy").write_bytes(signed(new_seal()))
    assert "no Ed25519 public key" in run("verify", "x.policy", "--public-keys", "policy.pub")[1]


@pytest.mark.parametrize(
    "words",
    [
        ("check", "none.yml"),
        ("test", "policy.yml", "--customers", "policy.yml"),
        ("test", "policy.yml", "--customers", "none.json"),
        ("compile", "policy.yml", *CUSTOMER_WORDS, "--customer", "c0404", "--output", "out"),
        ("compile", "policy.yml", *CUSTOMER_WORDS, "--customer", "c0001", "--output", "none"),
        ("sign", "policy.yml", "--key", "none.pem"),
    ],
)
def test_what_is_missing_is_told_in_one_line(run, desk, words):
    status, said = run(*words)
    assert status == 1
    assert said.startswith("moat-policy: ")
    assert said.count("\n") == 1


def test_a_box_needs_no_yaml(desk):
    # Only operators compile: a box has no parser for what they write.
    program = "import sys; sys.modules['yaml'] = None; from moatvpn.cli import moat_policy as m; "
    program += "sys.exit(m.main(sys.argv[1:]))"

    def call(*words):
        words = [sys.executable, "-c", program, *words]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    seal = new_seal()
    (desk / "policy.pub").write_text(seal.public_text)
    (desk / "x.policy").write_bytes(signed(seal))
    assert call("verify", "x.policy", "--public-keys", "policy.pub").returncode == 0
    refused = call("check", "policy.yml")
    assert refused.returncode == 1
    assert "Install moatvpn[fleet]" in refused.stderr


def fact(**state):
    whole = {"hash": "", "version": 0, "faults": []} | state
    return json.dumps({"ansible_facts": {"ansible_local": {"moat_policy": whole}}})


def test_boxes_that_have_drifted_are_told(run, desk):
    seal = new_seal()
    (desk / "policy.pub").write_text(seal.public_text)
    (desk / "out" / "1.policy").write_bytes(signed(seal))
    facts = desk / "facts"
    facts.mkdir()
    words = ("drift", "--policies", "out", "--facts", "facts", "--public-keys", "policy.pub")
    name = CUSTOMER.identity
    assert run(*words) == (3, {"drifted": {name: "has not been heard of"}})
    (facts / name).write_text(fact(hash=digest_of(compiled()), version=7))
    (facts / "moat3.example.net").write_text(fact())
    assert run(*words) == (0, {"drifted": {}})
    (facts / name).write_text(fact(hash="ab", version=6))
    (facts / "moat3.example.net").write_text(fact(hash="cd", version=5))
    status, said = run(*words, json_too=False)
    assert status == 3
    assert said.splitlines() == [
        f"{name}: has version 6 (ab) in force, not {digest_of(compiled())}",
        "moat3.example.net: has version 5 (cd) in force, not none",
    ]
    (facts / name).write_text("{}")
    (facts / "moat3.example.net").write_text(fact(faults=["rules\x1b[2J are in force"]))
    assert run(*words)[1]["drifted"] == {
        name: "says nothing of its policy",
        "moat3.example.net": "rules?[2J are in force",
    }
