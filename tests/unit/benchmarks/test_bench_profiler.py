"""What `make bench` tells of a profile."""

from __future__ import annotations

from peers.profiler import hottest

STACKS = [
    'process 7:"python -m x; y";main (a.py:1);send (b.py:10) 30',
    'process 7:"python -m x; y";main (a.py:1);send (b.py:12) 30',
    'process 7:"python -m x; y";main (a.py:1);<lambda> (<string>) 20',
    'process 7:"python -m x; y";main (a.py:2) 20',
    "",
    "a line of something else",
]


def test_lines_of_a_function_are_added_up_and_the_hottest_comes_first() -> None:
    lines = hottest(STACKS)
    assert lines[0].split(maxsplit=1) == ["60%", "send (b.py)"]
    assert sorted(line.split(maxsplit=1)[1] for line in lines[1:]) == [
        "<lambda> (<string>)",
        "main (a.py)",
    ]


def test_nothing_was_seen() -> None:
    assert hottest([]) == []
