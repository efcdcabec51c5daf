"""Which data plane a daemon takes, for each setting and each kernel."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moatvpn.config import DaemonConfig
from moatvpn.counters import Counters
from moatvpn.daemon import planes
from moatvpn.drivers.raw import RawEspSocket
from moatvpn.errors import OperatorError
from moatvpn.esp.child import Abilities

NO_ESP = OperatorError("the kernel's IPsec", "cannot be used", "Load the modules")


def config(data_plane: str) -> DaemonConfig:
    return DaemonConfig("m1.moats.example.net", Path("/key"), data_plane=data_plane)


def chosen(
    monkeypatch: pytest.MonkeyPatch, log: Any, data_plane: str, kind: str | None, esp: bool
) -> bool:
    def probe() -> None:
        if not esp:
            raise NO_ESP

    monkeypatch.setattr(planes, "probe", probe)
    monkeypatch.setattr(planes, "kind_of", lambda _: None if kind is None else (kind, 7))
    return planes.kernel_is_chosen(config(data_plane), log)


@pytest.mark.parametrize(
    ("kind", "esp", "kernel"),
    [
        ("xfrm", True, True),
        (None, True, True),
        ("tun", True, False),
        (None, False, False),
        ("tun", False, False),
    ],
)
def test_auto_is_the_kernel_where_it_can(
    monkeypatch: pytest.MonkeyPatch, log: Any, kind: str | None, esp: bool, kernel: bool
) -> None:
    assert chosen(monkeypatch, log, "auto", kind, esp) is kernel


def test_python_asks_the_kernel_for_nothing(monkeypatch: pytest.MonkeyPatch, log: Any) -> None:
    assert not chosen(monkeypatch, log, "python", "xfrm", True)
    assert not planes.kernel_is_chosen(DaemonConfig("m1.example.net", Path("/key")), log)


def test_the_kernel_must_be_able(monkeypatch: pytest.MonkeyPatch, log: Any) -> None:
    assert chosen(monkeypatch, log, "kernel", "xfrm", True)
    with pytest.raises(OperatorError, match="Load the modules"):
        chosen(monkeypatch, log, "kernel", "xfrm", False)


@pytest.mark.parametrize("kernel", [True, False])
def test_ike_is_told_what_the_data_plane_can_do(
    monkeypatch: pytest.MonkeyPatch, log: Any, kernel: bool
) -> None:
    able = Abilities(aggfrag=True)
    monkeypatch.setattr(planes, "_PYTHON_ABILITIES", able)
    monkeypatch.setattr(planes, "kernel_is_chosen", lambda *_: kernel)
    nothing: Any = None
    with ExitStack() as stack:
        made = planes.Planes(config("auto"), log, Counters(), nothing, nothing, stack)
    assert made.abilities == (Abilities() if kernel else able)


@pytest.mark.parametrize(("ports", "raw"), [((500, 4500), True), ((4600, 4601), False)])
def test_protocol_50_is_for_the_daemon_of_the_usual_ports(
    monkeypatch: pytest.MonkeyPatch, log: Any, ports: tuple[int, int], raw: bool
) -> None:
    made = RawEspSocket.__new__(RawEspSocket)
    monkeypatch.setattr(made, "close", lambda: None, raising=False)
    monkeypatch.setattr(planes, "RawEspSocket", lambda _: made)
    nothing: Any = None
    with ExitStack() as stack:
        settings = replace(config("python"), ports=ports)
        all_planes = planes.Planes(settings, log, Counters(), nothing, nothing, stack)
        assert (all_planes._raw() is made) is raw
