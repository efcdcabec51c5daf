"""moat-enrol on a box: whole or not at all, never older, and back where the tunnel is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from boxes import MOAT
from enrolling import NOW, PORTAL_KEY, Operator, configuration, connection, new_signer, running
from policies import new_seal

from moatvpn.cli import enrol_box, moat_enrol
from moatvpn.cli.enrol_box import Box, claim, pull
from moatvpn.config import connection_from_dict
from moatvpn.daemon.control import ControlServer
from moatvpn.daemon.keyfile import read_signer
from moatvpn.drivers.clock import monotonic
from moatvpn.drivers.loop import Loop
from moatvpn.enrol.documents import seal_configuration, seal_handover
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.errors import OperatorError

OTHER_KEY = new_signer().public_text
NEW = connection(OTHER_KEY)
SECOND = connection(
    PORTAL_KEY, name="second", local_selectors=("10.9.0.0/24",), remote_identity="p2.example.net"
)


class Daemon:
    """A moatd whose tunnels are up where works says so; what refuses names is refused."""

    def __init__(self) -> None:
        self.connections = {}
        self.works = lambda config: True
        self.refuses = None

    def __call__(self, request, peer):
        match request["command"]:
            case "replace":
                config = connection_from_dict(request["connection"])
                if config.name == self.refuses:
                    raise OperatorError(config.name, "is refused", "Mend it")
                self.connections[config.name] = config
            case "delete":
                self.connections.pop(request["name"], None)
            case "status":
                rows = [
                    {"name": name, "state": "established" if self.works(each) else "connecting"}
                    for name, each in self.connections.items()
                ]
                return {"connections": rows}
        return {"changed": True}


@contextmanager
def listening(daemon: Daemon, path: Path) -> Iterator[None]:
    loop, stop = Loop(monotonic), threading.Event()
    server = ControlServer(path, loop, monotonic, daemon)
    thread = threading.Thread(
        target=loop.run,
        args=(lambda: monotonic() + 0.05, lambda: loop.stop() if stop.is_set() else None),
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        server.close()
        loop.close()


@pytest.fixture
def operator():
    return Operator()


@pytest.fixture
def box(tmp_path, operator):
    settings = tmp_path / "etc"
    (settings / "connections.d").mkdir(parents=True)
    record = {
        "private_key": str(settings / "identity.key"),
        "connections": str(settings / "connections.d"),
        "control_socket": str(tmp_path / "control.sock"),
    }
    (settings / "moatd.json").write_text(json.dumps(record))
    (settings / "enrol.pub").write_text(operator.seal.public_text + "\n")
    return Box(settings, tmp_path / "state", patience=0.3, clock=lambda: NOW)


@pytest.fixture
def daemon(tmp_path, box):
    made = Daemon()
    with listening(made, tmp_path / "control.sock"):
        yield made


@contextmanager
def served(operator, tmp_path, box):
    with running(operator, tmp_path) as service:
        record = {"servers": ["127.0.0.1"], "port": service.port}
        (box.settings / "enrol.json").write_text(json.dumps(record))
        yield service


def stored(box):
    directory = box.settings / "connections.d"
    return {
        path.stem: connection_from_dict(json.loads(path.read_text()))
        for path in directory.iterdir()
    }


def publish(service, operator, **changes):
    operator.settings = configuration(**changes)
    service.desk.published = operator.published(service.certificate)


def test_a_first_boot_makes_a_key_claims_and_has_its_connections(tmp_path, operator, box, daemon):
    restarts = []
    box = replace(box, restart=lambda: restarts.append(1))
    with served(operator, tmp_path, box):
        outcome = claim(box, operator.token)
        assert (outcome.identity, outcome.what, outcome.serial) == (MOAT.identity, "applied", 1)
        assert claim(box, operator.token).what == "applied"  # a lost answer
        assert pull(box).what == "current"
    assert restarts == [1]
    assert json.loads(box.daemon.read_text())["identity"] == MOAT.identity
    assert box.key.stat().st_mode & 0o777 == 0o600
    expected = {"portal": connection(PORTAL_KEY)}
    assert stored(box) == daemon.connections == expected


def test_newer_settings_are_put_in_force_and_what_is_gone_goes(tmp_path, operator, box, daemon):
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        publish(service, operator, serial=2, connections=(NEW, SECOND))
        assert pull(box).what == "applied"
        assert stored(box) == daemon.connections == {"portal": NEW, "second": SECOND}
        publish(service, operator, serial=3, connections=(SECOND,))
        assert pull(box).serial == 3
        assert stored(box) == daemon.connections == {"second": SECOND}


def test_without_moatd_the_files_are_there_for_its_start(tmp_path, operator, box):
    with served(operator, tmp_path, box):
        assert claim(box, operator.token).what == "applied"
    assert stored(box) == {"portal": connection(PORTAL_KEY)}


def test_settings_that_cost_the_tunnel_are_taken_back(tmp_path, operator, box, daemon):
    daemon.works = lambda config: config.remote_public_keys == (PORTAL_KEY,)
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        publish(service, operator, serial=2, connections=(NEW,))
        assert pull(box).what == "went-back"
        assert stored(box) == daemon.connections == {"portal": connection(PORTAL_KEY)}
        # They are tried again, but not at once; newer ones are.
        assert pull(box).what == "waiting"
        daemon.works = lambda config: True
        later = replace(box, clock=lambda: NOW + 601)
        assert pull(later).what == "applied"
        assert stored(box) == {"portal": NEW}


def test_newer_settings_do_not_wait_for_those_that_failed(tmp_path, operator, box, daemon):
    daemon.works = lambda config: config.remote_public_keys == (PORTAL_KEY,)
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        publish(service, operator, serial=2, connections=(NEW,))
        assert pull(box).what == "went-back"
        publish(service, operator, serial=3)
        assert pull(box).what == "applied"


def test_a_tunnel_that_was_down_keeps_what_is_newer(tmp_path, operator, box, daemon):
    daemon.works = lambda config: False
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        publish(service, operator, serial=2, connections=(NEW,))
        assert pull(box).what == "applied"
        assert stored(box) == {"portal": NEW}


def test_where_moatd_refuses_one_connection_none_is_changed(tmp_path, operator, box, daemon):
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        daemon.refuses = "second"
        publish(service, operator, serial=2, connections=(NEW, SECOND))
        with pytest.raises(OperatorError, match="is refused"):
            pull(box)
        assert stored(box) == daemon.connections == {"portal": connection(PORTAL_KEY)}


def test_a_power_cut_in_between_is_mended_by_the_next_run(tmp_path, operator, box, daemon):
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        publish(service, operator, serial=2, connections=(NEW, SECOND))

        def cut(*_):
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(enrol_box, "_put_in_force", cut)
            with pytest.raises(KeyboardInterrupt):
                pull(box)
        assert box.pending.exists()
        assert pull(box).what == "current"
    assert stored(box) == daemon.connections == {"portal": NEW, "second": SECOND}
    assert not box.pending.exists()


def test_older_settings_are_never_taken_again(tmp_path, operator, box, daemon):
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        publish(service, operator, serial=5, connections=(NEW,))
        pull(box)
        for changes in ({"serial": 4}, {"serial": 5}):
            # Whoever serves says that they are newer, as a liar would.
            operator.settings = configuration(**changes)
            found = operator.published(service.certificate)
            entry = replace(found.entries[MOAT.identity], serial=99)
            service.desk.published = replace(found, entries={MOAT.identity: entry})
            with pytest.raises(EnrolError) as refused:
                pull(box)
            assert refused.value.reason is Reason.REPLAYED
    assert stored(box) == {"portal": NEW}


def test_settings_of_another_box_are_refused(tmp_path, operator, box, daemon):
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        other = configuration(serial=9, identity="m2.moats.example.net")
        found = service.desk.published
        entry = replace(
            found.entries[MOAT.identity],
            serial=9,
            configuration=seal_configuration(other, operator.seal),
        )
        service.desk.published = replace(found, entries={MOAT.identity: entry})
        with pytest.raises(EnrolError) as refused:
            pull(box)
        assert refused.value.reason is Reason.SERVER
    assert stored(box) == {"portal": connection(PORTAL_KEY)}


def test_back_after_half_a_year_by_handed_over_keys(tmp_path, operator, box, daemon):
    first = operator.seal
    with served(operator, tmp_path, box):
        claim(box, operator.token)
    daemon.works = lambda config: config.remote_public_keys == (OTHER_KEY,)
    between, now = new_seal(), new_seal()
    operator.handovers = (
        seal_handover(between.public_text, first),
        seal_handover(now.public_text, between),
    )
    operator.seal, operator.voucher_serial = now, 50
    operator.settings = configuration(serial=40, connections=(NEW,))
    operator.keys = (read_signer(box.key).public_text,)
    later = replace(box, clock=lambda: NOW - 90_000_000)  # it has forgotten the day, too
    with served(operator, tmp_path, box) as service:
        assert pull(later).what == "applied"
        assert stored(box) == daemon.connections == {"portal": NEW}
        # From here on the first key signs nothing for this box.
        operator.seal, operator.handovers = first, ()
        publish(service, operator, serial=41)
        with pytest.raises(EnrolError) as refused:
            pull(later)
        assert refused.value.reason is Reason.SERVER


def test_the_image_may_name_other_operators_keys(tmp_path, operator, box, daemon):
    with served(operator, tmp_path, box) as service:
        claim(box, operator.token)
        operator.seal = new_seal()
        publish(service, operator, serial=2)
        with pytest.raises(EnrolError):
            pull(box)
        (box.settings / "enrol.pub").write_text(operator.seal.public_text + "\n")
        assert pull(box).what == "applied"


def test_the_token_comes_out_of_a_file_that_goes(tmp_path, operator, box, daemon, capsys):
    token = tmp_path / "token"
    token.write_text(operator.token + "\n")
    words = ["--settings", str(box.settings), "--state", str(box.state), "--json"]
    box.daemon.write_text(
        json.dumps(json.loads(box.daemon.read_text()) | {"identity": MOAT.identity})
    )
    with served(operator, tmp_path, box):
        assert moat_enrol.main(["claim", "--token-file", str(token), *words]) == 0
        assert json.loads(capsys.readouterr().out)["what"] == "applied"
        assert not token.exists()
        token.write_text("nonsense")
        assert moat_enrol.main(["claim", "--token-file", str(token), *words]) == 1
        assert token.exists()
        assert moat_enrol.main(["pull", *words]) == 0
    assert moat_enrol.main(["pull", *words]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_a_stolen_token_tells_the_second_what_to_do(tmp_path, operator, box, daemon, capsys):
    token = tmp_path / "token"
    token.write_text(operator.token)
    operator.used_key = OTHER_KEY
    words = ["--settings", str(box.settings), "--state", str(box.state)]
    with served(operator, tmp_path, box):
        assert moat_enrol.main(["claim", "--token-file", str(token), *words]) == 1
    assert "tell the operator now" in capsys.readouterr().err
    assert stored(box) == {}
