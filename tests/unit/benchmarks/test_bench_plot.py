"""The picture that `make bench` draws."""

from __future__ import annotations

from xml.etree import ElementTree

from peers.plot import plot

SVG = "{http://www.w3.org/2000/svg}"
RESULTS = [
    {"name": "plain", "up_mbps": 8000.0, "down_mbps": 4000.0, "pps_64": 9e5, "cpu_s_per_gb": 0.0},
    {"name": "moatvpn-udp", "up_mbps": 2000.0, "down_mbps": 1000.0},
    {"name": "<other>", "error": "it did not start"},
]


def parse(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 - the picture is our own


def bars(picture: str) -> list[tuple[str, float]]:
    found = parse(picture).findall(f"{SVG}rect")
    return [(bar.attrib["class"], float(bar.attrib["width"])) for bar in found[1:]]


def test_bars_are_as_long_as_their_figures_say() -> None:
    (_, up), (_, down), (ours, our_up), (_, our_down) = bars(plot(RESULTS))[:4]
    assert ours == "bar ours"
    assert [up / down, up / our_up, up / our_down] == [2, 4, 8]


def test_every_figure_and_every_name_is_told() -> None:
    texts = [text.text for text in parse(plot(RESULTS)).findall(f"{SVG}text")]
    assert {"plain", "moatvpn-udp", "<other>", "8,000", "900,000"} <= set(texts)
    # The third one's four, and ours of datagrams and of the processor.
    assert texts.count("no figure") == 6


def test_nothing_is_drawn_outside_of_the_paper() -> None:
    root = parse(plot(RESULTS))
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for rect in root.findall(f"{SVG}rect"):
        place = {key: float(rect.attrib.get(key, 0)) for key in ("x", "y", "width", "height")}
        assert place["x"] + place["width"] <= width
        assert place["y"] + place["height"] <= height


def test_dark_paper_has_colours_of_its_own() -> None:
    light, _, dark = plot(RESULTS).partition("@media (prefers-color-scheme: dark)")
    for rule in (".paper {", "text {", ".bar {", ".bar.ours {"):
        assert rule in light
        assert rule in dark


def test_a_run_without_any_figure_has_a_picture_too() -> None:
    assert not bars(plot([{"name": "plain", "error": "no root"}]))
