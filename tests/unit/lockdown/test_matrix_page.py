"""The page of the zone matrix: what a person reads on it."""

from __future__ import annotations

from matrix_page import Row, page

ROWS = [
    Row("1 VPN", "wild", "local", "UDP 4500", True, True),
    Row("1 VPN", "wild", "local", "TCP 22", False, False),
    Row("1 VPN", "kid <b>", "private", "TCP 22", False, True),
]


def test_it_says_what_was_expected_and_seen() -> None:
    text = page(ROWS)
    assert "3 packets, 1 not as expected." in text
    assert '<td class="pass">pass</td><td class="drop">drop</td>' in text
    assert '<td class="wrong">expected drop, seen pass</td>' in text
    assert "<th>kid &lt;b&gt;</th>" in text
    assert text.count("<tr>") == 3


def test_a_page_without_faults_says_so() -> None:
    assert "<p>2 packets, 0 not as expected.</p>" in page(ROWS[:2])
