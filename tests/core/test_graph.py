"""Pictures: well-formed, complete, and safe whatever a note says."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree as ET

import pytest

from meshctl.core import graph
from meshctl.core.report import PeerVitals, Vitals
from meshctl.core.status import judge

from .made import THREE, world

SVG = "{http://www.w3.org/2000/svg}"
HUB = THREE + "links: {hub: a}\n"


def many(count: int, links: str = "full") -> str:
    hosts = "".join(f"  host-{i}: root@h{i}\n" for i in range(count))
    return f"mesh: many\nhosts:\n{hosts}links: {links}\n"


def test_mermaid_points_at_the_end_that_is_reached() -> None:
    text = graph.mermaid(world(THREE).mesh)
    assert text.startswith("graph LR\n")
    assert "  host_a --- host_b\n" in text
    assert "  host_c --> host_a\n" in text


def test_mermaid_marks_hubs_and_what_is_not_alive() -> None:
    mesh = world(HUB).mesh
    peers = (PeerVitals("b", str(mesh.hosts["b"].public_key), alive=False),)
    text = graph.mermaid(mesh, judge(mesh, {"a": Vitals("prod", "1", "running", peers=peers)}))
    assert "host_a{{" in text
    assert "host_a -.- host_b" in text


@pytest.mark.parametrize(
    "text",
    [THREE, HUB, many(1), many(2), many(40), many(9, "{hub: host-3}"), many(6, "{hub: [host-1, host-2, host-3]}")],
)
def test_the_picture_is_complete_and_nothing_overlaps(text: str) -> None:
    mesh = world(text).mesh
    root = ET.fromstring(graph.svg(mesh))
    assert len(root.findall(f"{SVG}line")) == len(mesh.links)
    boxes = [r.attrib for g in root.findall(f"{SVG}g") for r in g.findall(f"{SVG}rect")]
    assert len(boxes) == len(mesh.hosts)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in boxes:
        x, y, w, h = (float(box[k]) for k in ("x", "y", "width", "height"))
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h
    for a, b in combinations(boxes, 2):
        across = abs(float(a["x"]) - float(b["x"])) >= float(a["width"])
        down = abs(float(a["y"]) - float(b["y"])) >= float(a["height"])
        assert across or down


def test_names_are_told_apart_and_texts_fit_their_boxes() -> None:
    names = [f"a-rather-long-name-of-a-machine-in-the-rack-number-{i}" for i in range(3)]
    hosts = "".join(f"  {name}: root@{name}.example.com\n" for name in names)
    long = "fd00:1234:5678:9abc:ffff:ffff:ffff:0/112"
    root = ET.fromstring(
        graph.svg(world(f'mesh: m\nnetwork: "{long}"\nhosts:\n{hosts}links: {{hub: {names[0]}}}\n').mesh)
    )
    shown = []
    for group in root.findall(f"{SVG}g"):
        (box,), (name, small) = group.findall(f"{SVG}rect"), group.findall(f"{SVG}text")
        shown.append(name.text or "")
        assert 8 * len(name.text or "") <= float(box.attrib["width"])
        assert 6.5 * len(small.text or "") <= float(box.attrib["width"])  # DejaVu Sans, 11 px: 6.4 a digit
    assert len(set(shown)) == 3


def test_what_people_write_cannot_break_the_picture() -> None:
    text = "mesh: m\nhosts: {a: {ssh: r@a, note: '<script>&', owner: '\"]]>'}}\n"
    svg = graph.svg(world(text).mesh)
    ET.fromstring(svg)
    assert "<script>" not in svg
