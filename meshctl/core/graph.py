"""Pictures of a mesh: Mermaid text for a README, and an SVG made by hand.

The layout needs no solver: hosts stand on a ring in alphabetical order from the top, clockwise; with a hub, the hubs
stand in the middle. Links are coloured by their state when a Status is given, and dashed when they aren't alive, so
that colour never carries meaning alone. Names come from mesh.yaml and are safe by their grammar; notes and owners are
escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import cos, pi, sin

from meshctl.core import ip
from meshctl.core.mesh import Host, Mesh
from meshctl.core.spec import Pair
from meshctl.core.status import State, Status

Point = tuple[float, float]

_BOX = (146.0, 52.0)  # the least width, and the height
_LETTER, _SMALL_LETTER = 8.2, 6.6  # widths that hold for most letters of the two sizes, and a little more
_PADDING = 24.0
_LONGEST = 32  # letters of a name
_MARGIN = 40.0
_TITLE = 56.0
_STYLE = """\
  <style>
    text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #1c2733; text-anchor: middle }
    .title { font-size: 17px; font-weight: 600 }
    .name { font-weight: 600 }
    .small { font-size: 11px; fill: #5b6b7c }
    .box { fill: #ffffff; stroke: #9fb0c2; stroke-width: 1.2 }
    .hub { fill: #eaf3ff; stroke: #3d7eff; stroke-width: 1.8 }
    .link { stroke: #9fb0c2; stroke-width: 1.5; fill: none }
    .alive { stroke: #1f9d61 }
    .down { stroke: #d33c3c; stroke-dasharray: 7 5 }
    .new, .unknown { stroke: #c98a12; stroke-dasharray: 2 4 }
    .ground { fill: #f7f9fb }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .small { fill: #93a4b5 } .ground { fill: #11181f }
      .box { fill: #1b242d; stroke: #50606f } .hub { fill: #14263f; stroke: #5b93ff } .link { stroke: #50606f }
      .alive { stroke: #35c27f } .down { stroke: #ff6b6b } .new, .unknown { stroke: #e0a83a }
    }
  </style>"""


def mermaid(mesh: Mesh, status: Status | None = None) -> str:
    """A Mermaid flowchart; an arrow points at the end that is reached, a plain line can be opened from both."""
    states = _states(status)
    lines = ["graph LR"]
    for name, host in mesh.hosts.items():
        label = "<br/>".join([name, *map(ip.addr_text, host.addresses[:1]), *_marks(host)])
        shape = f'{{{{"{label}"}}}}' if host.relay else f'("{label}")'
        # prefixed, since `end` and other host names are words of Mermaid's
        lines.append(f"  host_{_ident(name)}{shape}")
    for a, b in mesh.links:
        to_b = any(p.endpoint for p in mesh.hosts[a].peers if p.name == b)
        to_a = any(p.endpoint for p in mesh.hosts[b].peers if p.name == a)
        start, end = (a, b) if to_b else (b, a)
        broken = states.get((a, b)) not in (None, State.ALIVE)
        line = {(True, True): "-.-", (True, False): "-.->", (False, True): "---", (False, False): "-->"}
        lines.append(f"  host_{_ident(start)} {line[broken, to_a and to_b]} host_{_ident(end)}")
    return "\n".join(lines) + "\n"


def svg(mesh: Mesh, status: Status | None = None) -> str:
    """A self-contained SVG that follows the reader's light or dark scheme."""
    points, width, height = _layout(mesh)
    states = _states(status)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="the mesh {mesh.name}">',
        _STYLE,
        '  <rect class="ground" width="100%" height="100%" rx="10"/>',
        f'  <text class="title" x="{width / 2:.0f}" y="34">{mesh.name}</text>',
    ]
    parts += [_line(link, points, states, mesh) for link in mesh.links]
    size = _box_size(mesh)
    parts += [_box(host, points[name], size) for name, host in mesh.hosts.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layout(mesh: Mesh) -> tuple[dict[str, Point], float, float]:
    """The centre of each host's box, and the size of the picture."""
    hubs = [n for n, h in mesh.hosts.items() if h.relay]
    ring = [n for n, h in mesh.hosts.items() if not h.relay]
    if not ring:
        ring, hubs = hubs, []
    width, height = _box_size(mesh)
    inner = _radius(len(hubs), 80, width)
    outer = max(_radius(len(ring), 105, width), inner + width * 1.1 if hubs else 0.0)
    # hubs stand a quarter of a step aside, so that no link to one runs through another
    start = -pi / 2 if len(ring) != 2 else pi
    points = _circle(ring, outer, start) | _circle(hubs, inner, start + pi / 2 / max(1, len(ring)))
    left, right = min(x for x, _ in points.values()), max(x for x, _ in points.values())
    top, bottom = min(y for _, y in points.values()), max(y for _, y in points.values())
    across, down = width / 2 + _MARGIN - left, height / 2 + _TITLE - top
    placed = {name: (x + across, y + down) for name, (x, y) in points.items()}
    return placed, right - left + width + 2 * _MARGIN, bottom - top + height + _TITLE + _MARGIN


def _box_size(mesh: Mesh) -> tuple[float, float]:
    """All boxes are as wide as the longest text needs."""
    least, height = _BOX
    texts = [_LETTER * len(_short(name)) for name in mesh.hosts]
    texts += [_SMALL_LETTER * len(_small(host)) for host in mesh.hosts.values()]
    return max([least, *(text + _PADDING for text in texts)]), height


def _radius(count: int, least: float, width: float) -> float:
    """Wide enough that neighbours on the ring don't touch."""
    return 0.0 if count < 2 else max(least, count * width * 0.62 / pi)


def _circle(names: list[str], radius: float, start: float) -> dict[str, Point]:
    """Evenly on an ellipse (wider than high, as boxes are) round the origin, clockwise from `start`."""
    turn = 2 * pi / max(1, len(names))
    return {
        name: (1.25 * radius * cos(start + i * turn), radius * sin(start + i * turn)) for i, name in enumerate(names)
    }


def _line(link: Pair, points: Mapping[str, Point], states: Mapping[Pair, State], mesh: Mesh) -> str:
    (x1, y1), (x2, y2) = points[link[0]], points[link[1]]
    state = states.get(link)
    css = f"link {state}" if state else "link"
    title = f"{link[0]} — {link[1]}" + (f": {state}" if state else "")
    return (
        f'  <line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"><title>{title}</title></line>'
    )


def _box(host: Host, at: Point, size: tuple[float, float]) -> str:
    width, height = size
    x, y = at
    about = " · ".join([*(escape(t) for t in (host.owner, host.note) if t), *map(ip.addr_text, host.addresses)])
    return "\n".join(
        [
            f"  <g><title>{host.name}: {about}</title>",
            f'    <rect class="box{" hub" if host.relay else ""}" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" '
            f'width="{width:.0f}" height="{height:.0f}" rx="9"/>',
            f'    <text class="name" x="{x:.1f}" y="{y - 4:.1f}">{_short(host.name)}</text>',
            f'    <text class="small" x="{x:.1f}" y="{y + 14:.1f}">{_small(host)}</text>',
            "  </g>",
        ]
    )


def _marks(host: Host) -> list[str]:
    marks = (("hub", host.relay), ("exit", host.exit), ("nat", host.nat), ("lan", bool(host.lan)))
    return [word for word, there in marks if there] + ([f"via {host.route.via}"] if host.route is not None else [])


def _small(host: Host) -> str:
    """The second line of a box."""
    return " · ".join([*map(ip.addr_text, host.addresses[:1]), *_marks(host)])


def _short(name: str) -> str:
    """Cut in the middle: long names differ at their ends."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[1 - half :]}"


def _ident(name: str) -> str:
    return name.replace("-", "_")


def _states(status: Status | None) -> dict[Pair, State]:
    return {(link.a, link.b): link.state for link in status.links} if status is not None else {}
