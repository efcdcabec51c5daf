"""A rekey is not noticed by the traffic that it happens under."""

from __future__ import annotations

import lab
import pytest
from testinfra.host import Host

# Echo requests, 100 a second, for as long as a test takes: the summary tells of every loss.
PING = "ping -n -i 0.01 -c 800 -W 2 %s"


@pytest.mark.parametrize("name", lab.BOXES)
@pytest.mark.parametrize("sa", ["child", "ike"])
def test_a_rekey_during_a_transfer_loses_no_packet(
    pc: Host, corp: Host, name: str, sa: str
) -> None:
    box = lab.host(name)
    before = lab.connection(box)
    spis = ("spi_in", "spi_out") if sa == "child" else ("ike_spi_i", "ike_spi_r")
    pc.run_expect([0], "rm -f /tmp/ping-log")
    with (
        lab.service(corp, "iperf", "iperf3", "--server"),
        lab.service(pc, "pings", "sh", "-c", PING.replace("%s", lab.CORP) + " > /tmp/ping-log"),
    ):
        lab.wait_for(lambda: corp.run("ss --no-header -ltn sport = :5201").stdout, "iperf3", 5)
        with lab.service(
            pc, "transfer", "iperf3", "--client", lab.CORP, "--time", "6", "--bitrate", "20M"
        ):
            lab.wait_for(lambda: pc.run("test -s /tmp/ping-log").rc == 0, "the pings", 5)
            lab.moatctl(box, "rekey", before["name"], sa)
            lab.wait_for(
                lambda: all(lab.connection(box)[spi] != before[spi] for spi in spis),
                f"new SPIs of the {sa} SA", 5,
            )  # fmt: skip
            lab.wait_for(
                lambda: pc.run("systemctl is-active --quiet pings").rc != 0, "the pings' end", 30
            )
    log = pc.check_output("cat /tmp/ping-log")
    assert "800 packets transmitted, 800 received, 0% packet loss" in log
    assert "DUP" not in log


def test_ten_rekeys_in_a_row(pc: Host, moat: Host) -> None:
    name = lab.connection(moat)["name"]
    for turn in range(10):
        sa = ("child", "ike")[turn % 2]
        spi = ("spi_in", "ike_spi_i")[turn % 2]
        before = lab.connection(moat)[spi]
        lab.moatctl(moat, "rekey", name, sa)

        def renewed(spi: str = spi, before: object = before) -> bool:
            return bool(lab.connection(moat)[spi] != before)

        lab.wait_for(renewed, f"rekey {turn} ({sa})", 5)
        assert lab.reaches(pc, lab.CORP)
