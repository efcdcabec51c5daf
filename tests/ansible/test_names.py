"""What a zone's name server tells clients, as the role configures it, with nothing else up.

The server is Debian's own, with the capabilities that the unit leaves it and no more.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import names_client as client
import pytest
import yaml
from ansible_bench import MOAT, ROOT, Rulesets, make_lab, operator
from namespaces import Wires

ROLE = ROOT / "roles" / "moat"
HOME = "10.201.1.1"
CORP = "10.50.0.10"
NOBODY = "65534"
# By zone and variant, what differs from the defaults.
WITH_RESOLVER = {
    "moat_corporate_resolvers": [CORP],
    "moat_home_hosts": [
        {"name": "printer", "address": "10.201.1.20", "mac": "02:00:00:00:0a:01"},
    ],
}
KID = {
    "moat_kidnet_enabled": True,
    "moat_kidnet_interface": "kid0",
    "moat_kidnet_address": "10.30.0.1/24",
    "moat_kidnet_subnet": "10.30.0.0/24",
    "moat_kidnet_resolvers": ["192.0.2.1"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "resolver": WITH_RESOLVER,
    "alone": {},
    "split": {
        "moat_corporate_resolvers": [CORP],
        "moat_corporate_domains": ["corp.example.net"],
        "moat_corporate_others": False,
    },
    "kid": WITH_RESOLVER | KID,
    "leased-kid": KID | {"moat_kidnet_resolvers": []},
    "vpn": {
        "moat_vpns": [
            {
                "name": "second",
                "private_interface": "home1",
                "private_address": "10.202.1.1/24",
                "private_subnet": "10.202.1.0/24",
                "resolvers": ["10.60.0.10"],
            }
        ]
    },
}
# What is to be rendered: a variant's settings of a zone.
Settings = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """Render every variant by the task of the role; return what finds the file of a zone."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # the server is not root
        yield rendered(Path(directory))


def rendered(directory: Path) -> Settings:
    run = operator(directory)
    make_lab(run)
    (say,) = (
        task
        for task in yaml.safe_load((ROLE / "tasks" / "names.yml").read_text())
        if task["name"] == "Say what each zone gets"
    )
    del say["notify"]
    template = say["ansible.builtin.template"]
    template["src"] = str(ROLE / "templates" / template["src"])
    defaults = directory / "group_vars" / "all"  # which the customer database goes before
    defaults.mkdir(parents=True)
    roles = ("moatvpn", "moat")
    for role in roles:
        given = (ROOT / "roles" / role / "defaults" / "main.yml").read_text()
        (defaults / f"{role}.yml").write_text(given)
    plays = []
    for variant, changes in VARIANTS.items():
        room = directory / variant
        (room / "names").mkdir(parents=True)
        changes = changes | {
            "ansible_python_interpreter": sys.executable,
            "__moatvpn_etc": str(room),
            "__moat_names_state": str(room),
        }
        plays.append(
            {
                "hosts": MOAT,
                "gather_facts": False,
                "connection": "local",
                "vars_files": [
                    str(ROOT / "roles" / role / "vars" / "main.yml") for role in ("moatvpn", "moat")
                ],
                "tasks": [say | {"vars": changes}],
            }
        )
    (directory / "render.yml").write_text(yaml.safe_dump(plays))
    done = run(
        "ansible-playbook",
        "--inventory",
        "inventory/moat.yml",
        "render.yml",
        ANSIBLE_FILTER_PLUGINS=str(ROOT / "filter_plugins"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return lambda variant, zone: directory / variant / "names" / f"{zone}.conf"


@pytest.fixture
def wires(rulesets: Rulesets) -> Iterator[Wires]:
    """A moat under its lockdown ruleset, with a home and what lies beyond the tunnel."""
    made = Wires(f"n{os.getpid() % 10_000}")
    try:
        made.wild = made.neighbour("wild0", ["192.0.2.10/24"], ["192.0.2.1/24"])
        made.home = made.neighbour(
            "home0",
            [f"{HOME}/24", "fd00:201:1::1/64"],
            ["10.201.1.10/24", "fd00:201:1::10/64"],
        )
        made.tunnel = made.neighbour("moat0", ["10.50.0.1/24"], [f"{CORP}/24"])
        # The source that the rules of the routing table give what the moat asks itself.
        route = ("ip", "route", "replace", CORP, "dev", "moat0", "src", HOME)
        made.run(made.box, *route)
        made.load(rulesets[MOAT, "lab"])
        yield made
    finally:
        made.close()


@contextmanager
def server(wires: Wires, configuration: Path, told: str = "") -> Iterator[None]:
    """Run the zone's server as its unit does, until it answers and for as long as the block.

    told: the resolver that the box's own resolv.conf names, in place of this machine's.
    """
    unit = (ROLE / "templates/etc/systemd/system/moat-names@.service.j2").read_text()
    (kept,) = re.findall(r"^AmbientCapabilities=(.*)$", unit, re.MULTILINE)
    some = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in kept.split())
    state = configuration.parent.parent / configuration.stem
    state.mkdir(exist_ok=True)
    os.chown(state, int(NOBODY), int(NOBODY))
    # ip-netns(8) lays what is there over /etc, for the programs that it runs.
    etc = Path("/etc/netns", wires.box)
    etc.mkdir(parents=True, exist_ok=True)
    (etc / "resolv.conf").write_text(f"nameserver {told}\n" if told else "")
    command = [
        "ip", "netns", "exec", wires.box,
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        f"--inh-caps=-all,{some}", f"--ambient-caps=-all,{some}", f"--bounding-set=-all,{some}",
        "--no-new-privs",
        "dnsmasq", "--keep-in-foreground", f"--conf-file={configuration}",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 10
            while _answers(wires, "moat.home.arpa") is None:
                alive = process.poll() is None and time.monotonic() < end
                assert alive, process.stderr and process.stderr.read()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=10)
            (etc / "resolv.conf").unlink()
            etc.rmdir()


def _answers(wires: Wires, name: str, signed: bool = False) -> client.Answer | None:
    with closing(wires.open(wires.home, socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        asking.settimeout(1)
        try:
            asking.connect((HOME, 53))
            asking.send(client.question(name, signed))
            return client.parse(asking.recv(4096))
        except (TimeoutError, ConnectionRefusedError):
            time.sleep(0.05)
            return None


def ask(wires: Wires, name: str, signed: bool = False) -> client.Answer:
    """Return what the moat answers a client of the home who asks for a name."""
    answer = _answers(wires, name, signed)
    assert answer is not None, f"no answer about {name}"
    return answer


@contextmanager
def resolver(wires: Wires, where: str = "", address: str = CORP) -> Iterator[client.Resolver]:
    """Serve beyond the tunnel, or in another namespace at an address of it."""
    with closing(wires.open(where or wires.tunnel, socket.AF_INET, socket.SOCK_DGRAM)) as at:
        at.bind((address, 53))
        with client.Resolver(at).serving() as serving:
            yield serving


@contextmanager
def host(wires: Wires, name: str, mac: str = "02:00:00:00:0a:02") -> Iterator[client.Host]:
    """A client that has no address yet."""
    with closing(wires.open(wires.home, socket.AF_INET, socket.SOCK_DGRAM)) as at:
        at.settimeout(10)  # the server pings an address before it gives it out
        yield client.Host(at, "eth0", bytes.fromhex(mac.replace(":", "")), name)


def test_a_lease_and_its_name_outlive_a_reboot_without_the_wild_side(
    wires: Wires, settings: Settings
) -> None:
    wires.run(wires.box, "ip", "link", "set", "wild0", "down")
    wires.run(wires.box, "ip", "link", "set", "moat0", "down")
    with server(wires, settings("resolver", "private")):
        with host(wires, "laptop") as laptop:
            lease = laptop.lease()
        assert 64 <= int(lease.address.rpartition(".")[2]) <= 254
        assert lease.addresses(3) == lease.addresses(6) == [HOME]
        assert lease.options[15] == b"home.arpa"
        assert ask(wires, "laptop.home.arpa").addresses() == [lease.address]
        assert ask(wires, "printer.home.arpa").addresses() == ["10.201.1.20"]
        assert ask(wires, "moat.home.arpa").addresses() == [HOME]
        assert ask(wires, "nobody.home.arpa").rcode == client.NXDOMAIN
        with host(wires, "printer", mac="02:00:00:00:0a:01") as printer:
            assert printer.lease().address == "10.201.1.20"
        with host(wires, "wpad", mac="02:00:00:00:0a:03") as liar:
            liar.lease()
        assert ask(wires, "wpad.home.arpa").rcode == client.NXDOMAIN
    with server(wires, settings("resolver", "private")):
        assert ask(wires, "laptop.home.arpa").addresses() == [lease.address]
        with host(wires, "laptop") as laptop:
            assert laptop.keep(lease.address).address == lease.address


def test_other_names_go_through_the_tunnel_and_keep_their_signatures(
    wires: Wires, settings: Settings
) -> None:
    with (
        closing(wires.open(wires.wild, socket.AF_PACKET, socket.SOCK_RAW, 0x0300)) as wild,
        resolver(wires) as corporate,
        server(wires, settings("resolver", "private")),
    ):
        for name in ("intranet.corp.example.net", "www.example.org"):
            for _ in range(2):  # the second time from the memory of the first, or not
                plain = ask(wires, name)
                assert plain.addresses() == [client.Resolver.ADDRESS]
                assert plain.types() == {client.A}
                signed = ask(wires, name, signed=True)
                assert signed.types() == {client.A, client.RRSIG}
                assert signed.flags & client.AUTHENTIC
        assert set(corporate.asked) == {"intranet.corp.example.net", "www.example.org"}
        wild.settimeout(0.1)
        assert [frame for frame in _frames(wild) if _port(frame) == 53] == []


def _frames(at: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield at.recv(2048)
        except TimeoutError:
            return


def _port(frame: bytes) -> int:
    """Return the port that a frame of IPv4 with UDP or TCP goes to, else 0."""
    if frame[12:14] != b"\x08\x00" or frame[23] not in (6, 17):
        return 0
    return int(struct.unpack_from("!H", frame, 14 + 4 * (frame[14] & 0xF) + 2)[0])


@pytest.mark.parametrize("tunnel", ["up", "down"])
def test_the_wild_sides_own_resolver_is_never_asked(
    wires: Wires, settings: Settings, tunnel: str
) -> None:
    """It would answer, it is what the box itself is told, and everything else leads there."""
    wires.run(wires.box, "ip", "route", "add", "default", "via", "192.0.2.1", "dev", "wild0")
    tried = "type filter hook output priority -500; ip daddr 192.0.2.1 udp dport 53 counter;"
    wires.run(wires.box, "nft", f"table inet tried {{ chain output {{ {tried} }}; }}")
    if tunnel == "down":
        wires.run(wires.box, "ip", "link", "set", "moat0", "down")
    with (
        closing(wires.open(wires.wild, socket.AF_PACKET, socket.SOCK_RAW, 0x0300)) as wild,
        resolver(wires, wires.wild, "192.0.2.1") as leased,
        resolver(wires) as corporate,
        server(wires, settings("resolver", "private"), told="192.0.2.1"),
    ):
        answer = _answers(wires, "www.example.org", signed=True)
        if tunnel == "up":
            assert answer is not None
            assert answer.types() == {client.A, client.RRSIG}
            assert answer.flags & client.AUTHENTIC
        else:
            assert answer is None or answer.addresses() == []
        assert corporate.asked == (["www.example.org"] if tunnel == "up" else [])
        assert leased.asked == []
        # Nor does the server try, and have only the ruleset stop it.
        assert "packets 0 " in wires.run(wires.box, "nft", "list", "table", "inet", "tried")
        wild.settimeout(0.1)
        assert [frame for frame in _frames(wild) if _port(frame) == 53] == []


def test_without_a_resolver_other_names_are_refused_at_once(
    wires: Wires, settings: Settings
) -> None:
    with server(wires, settings("alone", "private")):
        start = time.monotonic()
        assert ask(wires, "www.example.org").rcode == client.REFUSED
        assert time.monotonic() - start < 0.5
        assert ask(wires, "moat.home.arpa").addresses() == [HOME]


def test_a_split_asks_for_the_corporations_own_names_alone(
    wires: Wires, settings: Settings
) -> None:
    with resolver(wires) as corporate, server(wires, settings("split", "private")):
        assert ask(wires, "a.corp.example.net").addresses() == [client.Resolver.ADDRESS]
        assert ask(wires, "www.example.org").rcode == client.REFUSED
        assert corporate.asked == ["a.corp.example.net"]


def test_a_router_advertisement_names_the_prefix_and_the_name_server(
    wires: Wires, settings: Settings
) -> None:
    with (
        closing(
            wires.open(wires.home, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        ) as asking,
        server(wires, settings("resolver", "private")),
    ):
        asking.settimeout(5)
        asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        asking.sendto(bytes((133, 0, 0, 0, 0, 0, 0, 0)), ("ff02::2%eth0", 0))
        message = b""
        while not message or message[0] != 134:
            message = asking.recv(1500)
    options: dict[int, bytes] = {}
    at = 16
    while at < len(message):
        options[message[at]] = message[at : at + 8 * message[at + 1]]
        at += 8 * message[at + 1]
    prefix = options[3]  # RFC 4861, 4.6.2
    assert prefix[2] == 64
    assert prefix[3] & 0x40  # a host may make its address of it
    assert prefix[16:] == socket.inet_pton(socket.AF_INET6, "fd00:201:1::")
    assert 25 in options  # RDNSS (RFC 8106, 5.1)
    assert struct.unpack_from("!H", message, 6)[0] > 0  # a router for as long


def test_the_kid_net_knows_nothing_of_home_and_corporation(settings: Settings) -> None:
    text = settings("kid", "kid").read_text()
    assert "interface=kid0" in text
    assert "stop-dns-rebind" in text
    assert re.findall("^server=.*$", text, re.MULTILINE) == ["server=192.0.2.1"]
    assert "host-record=moat.home.arpa,10.30.0.1\n" in text
    for secret in (CORP, "10.201.", "printer", "corp."):
        assert secret not in text
    leased = settings("leased-kid", "kid").read_text()
    assert "server=" not in leased
    assert "resolv-file=/run/moat-names-kid/resolv.conf" in leased
    assert "\nno-resolv" not in leased


def test_a_further_vpn_has_a_server_of_its_own(settings: Settings) -> None:
    text = settings("vpn", "second").read_text()
    assert "interface=home1" in text
    assert re.findall("^server=.*$", text, re.MULTILINE) == ["server=10.60.0.10"]
    assert "server=" not in settings("vpn", "private").read_text()


def test_no_zone_without_a_variant_that_asks_for_it(settings: Settings) -> None:
    directory = settings("resolver", "private").parent
    assert [path.name for path in directory.iterdir()] == ["private.conf"]
