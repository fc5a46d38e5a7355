"""Strategies: meshes of every shape the language has, as the data of a mesh.yaml and as a Spec."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from meshctl.core import tree
from meshctl.core.parse import parse
from meshctl.core.spec import Spec

NAMES = [*"abcdefgh", "no", "null", "db-1", "x0", "y" * 63]
GROUPS = ["web", "dbs", "ci"]
PLACES = ["office", "rack"]


@st.composite
def hosts(draw: st.DrawFn, name: str, index: int) -> Any:
    """One host; LANs are disjoint by the host's index."""
    if draw(st.booleans()):
        return f"root@{name}.example.com"
    words: dict[str, Any] = {"ssh": f"admin@{name}.example.com:{2200 + index}"}
    if draw(st.booleans()):
        words["nat"] = draw(st.booleans())
    if draw(st.booleans()):
        words["lan"] = draw(st.sampled_from([f"192.168.{index}.0/24", [f"192.168.{index}.0/25", f"fd00:{index}::/64"]]))
    if draw(st.booleans()):
        words["groups"] = draw(st.lists(st.sampled_from(GROUPS), unique=True, max_size=3))
    if draw(st.booleans()):
        words["at"] = draw(st.sampled_from([*PLACES, {"office": f"172.16.0.{index + 1}"}]))
    if draw(st.booleans()):
        words["endpoint"] = draw(
            st.sampled_from([f"198.51.100.{index}", f"[2001:db8::{index}]:{5000 + index}", f"VPN{index}.example.com."])
        )
    if draw(st.booleans()):
        words["port"] = draw(st.integers(1, 65535))
    if draw(st.booleans()):
        words["mtu"] = draw(st.integers(1280, 65455))
    return words


@st.composite
def files(draw: st.DrawFn, least: int = 1) -> dict[str, Any]:
    """The content of a valid mesh.yaml."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=least, max_size=7))
    data: dict[str, Any] = {
        "mesh": draw(st.sampled_from(["prod", "m", "office-2"])),
        "hosts": {name: draw(hosts(name, NAMES.index(name))) for name in names},
    }
    if draw(st.booleans()):
        data["network"] = draw(
            st.sampled_from(["10.77.0.0/27", "fd12::/64", ["10.77.0.0/28", "fd12::/120"], "100.64.0.0/10"])
        )
    if draw(st.booleans()):
        data["links"] = draw(links(names, data))
    elif draw(st.booleans()):
        _with_an_exit(draw, data["hosts"])
    if draw(st.booleans()):
        data["defaults"] = {"nat": draw(st.booleans()), "note": "a note"}
    if draw(st.booleans()):
        data["port"] = draw(st.integers(1, 65535))
    return data


def _with_an_exit(draw: st.DrawFn, found: dict[str, Any]) -> None:
    """The first host, which everybody can reach; who leaves by it, and what, is drawn."""
    exit, *others = (name for name in found)
    words = found[exit] if isinstance(found[exit], dict) else {"ssh": found[exit]}
    found[exit] = words | {"exit": True, "nat": False}
    for name in others:
        route = draw(st.sampled_from([None, "all", {"users": ["bob", "2000-2999"]}]))
        if route is not None:
            words = found[name] if isinstance(found[name], dict) else {"ssh": found[name]}
            found[name] = words | {"route": route}


def without_exits(data: dict[str, Any]) -> dict[str, Any]:
    """Any host may be taken out of this one."""

    def words(host: Any) -> Any:
        return {k: v for k, v in host.items() if k not in ("exit", "route")} if isinstance(host, dict) else host

    return data | {"hosts": {name: words(host) for name, host in data["hosts"].items()}}


@st.composite
def links(draw: st.DrawFn, names: list[str], data: dict[str, Any]) -> Any:
    kind = draw(st.sampled_from(["full", "hub", "lines"]))
    if kind == "full":
        return "full"
    if kind == "hub":
        return {"hub": draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=3))}
    worn = {g for h in data["hosts"].values() if isinstance(h, dict) for g in h.get("groups", [])}
    side = st.sampled_from([*names, *sorted(worn), "*"])
    pairs = draw(st.lists(st.tuples(side, side), min_size=1, max_size=4))
    return [f"{a} -- {b}" for a, b in pairs if a != b or a not in names]


def tree_of(value: Any, line: int = 1, column: int = 1) -> tree.Tree:
    """The tree that YAML makes of this data; each entry stands on a line of its own, which is all that tests ask."""
    if isinstance(value, dict):
        entries = [(k, v, line + i + 1) for i, (k, v) in enumerate(value.items())]
        return tree.Map(
            tuple(tree.Entry(tree.Scalar(k, k, at, column), tree_of(v, at, column + 2)) for k, v, at in entries),
            line,
            column,
        )
    if isinstance(value, list):
        return tree.Seq(tuple(tree_of(item, line, column + i) for i, item in enumerate(value)), line, column)
    return tree.Scalar(value, "null" if value is None else str(value), line, column)


def spec_from(data: dict[str, Any]) -> Spec:
    return parse(tree_of(data), "mesh.yaml")
