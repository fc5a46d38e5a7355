"""Laws of reading: whatever became of mesh.yaml, mesh.lock or mesh.keys, it is read or there are errors with places.

Two ways of spoiling a good file: its bytes (cut, doubled, moved, replaced), and its nodes (a value of another kind, a
word taken out, doubled or renamed). No secret of mesh.keys may be repeated by an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core.made import THREE, spec_of, world_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshctl.core import keys, lock, parse, tree
from meshctl.core.errors import Invalid
from meshctl.shell import keyring, yamlfile

ROOT = Path(__file__).parents[2]
MESHES = sorted(
    path.read_bytes() for folder in ("examples", "inventories") for path in (ROOT / folder).glob("*/mesh.yaml")
)
KEY = "mD3tPz1Yc0jT5bq8nX2lR7sV4wK9eA6uH0iGfZoQxkE="
KEYS = f'# keys\nschema: 1\npsk_root: "{KEY}"\nprivate:\n  "a": "{KEY}"\n  "b": "{KEY}"\nnext_psk_epoch: 2\n'
KEYS = f'{KEYS}next_psk_root: "{KEY}"\nnext_private:\n  "b": "{KEY}"\n'.encode()


def _lock() -> bytes:
    world = world_of(spec_of(THREE))
    made = lock.pin(world.lock, next(iter(world.lock.hosts)), ["ssh-ed25519 AAAA"])
    made = lock.pin(made, "new", ["@cert-authority ssh-rsa BBBB"])
    coming = replace(made.hosts["a"], next_public_key=keys.PublicKey(bytes(32)))
    rotation = lock.Rotation(lock.Stage.ANNOUNCE, 2, frozenset({"a"}))
    return lock.format(replace(made, hosts=dict(made.hosts) | {"a": coming}, rotation=rotation)).encode()


def _read_mesh(text: bytes, _: Path) -> object:
    return parse.parse(yamlfile.parse(text, "mesh.yaml"), "mesh.yaml")


def _read_lock(text: bytes, _: Path) -> object:
    return lock.read(yamlfile.parse(text, "mesh.lock"), "mesh.lock")


def _read_keys(text: bytes, folder: Path) -> object:
    file = folder / "mesh.keys"
    file.write_bytes(text)
    file.chmod(0o600)
    return keyring.read(file, None)


READERS = {"mesh": (MESHES, _read_mesh), "lock": ([_lock()], _read_lock), "keys": ([KEYS], _read_keys)}
# what YAML and the languages of the files make something of
PIECES = st.sampled_from(
    [
        *(
            b":",
            b": ",
            b"- ",
            b"[",
            b"]",
            b"{",
            b"}",
            b"\n",
            b"  ",
            b"\t",
            b"#",
            b"&x ",
            b"*x",
            b"!!int ",
            b"!x ",
            b"? ",
            b"|\n",
        ),
        *(
            b'"',
            b"'",
            b'"\\ud800"',
            b'"\\U00110000"',
            b"\\",
            b"%",
            b"@",
            b"`",
            b"---\n",
            b"...\n",
            b"<<: *x\n",
            b"<<: ",
            b"\x00",
        ),
        *(
            b"null",
            b"true",
            b"0",
            b"-1",
            b"1e400",
            b".nan",
            b"0x" + b"f" * 4000,
            b"9" * 4000,
            b"\xff\xfe",
            b"\xe2\x80\xa8",
            b"\xef\xbb\xbf",
        ),
        *(
            b"hosts:",
            b"mesh:",
            b"links: ",
            b"ssh: ",
            b"--",
            b"/",
            b"@",
            b"$ANSIBLE_VAULT;",
            b"<<<<<<< ",
            b">>>>>>> ",
            b"[" * 400,
        ),
    ]
) | st.binary(max_size=4)
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["a", "b", "*", "all", "full", "a -- b", "10.0.0.1", "fd00::/8", "root@a", "office", KEY, "tcp/22"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spoilt_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    text = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["cut", "double", "replace", "move", "end"])):
            case "cut":
                text = text[:start] + text[end:]
            case "double":
                text = text[:end] + text[start:]
            case "replace":
                text = text[:start] + draw(PIECES) + text[end:]
            case "move":
                to = draw(st.integers(0, len(text)))
                rest = text[:start] + text[end:]
                text = rest[:to] + text[start:end] + rest[to:]
            case "end":
                text = text[:start]
    return text


@st.composite
def spoilt_nodes(draw: st.DrawFn, good: bytes) -> bytes:
    node = tree.plain(yamlfile.parse(good, "f"))
    for _ in range(draw(st.integers(1, 3))):
        node = _spoil(draw, node)
    return json.dumps(node, allow_nan=True).replace("Infinity", ".inf").replace("NaN", ".nan").encode()


def _spoil(draw: st.DrawFn, node: Any) -> Any:
    """The value with one thing changed, somewhere below it."""
    if not isinstance(node, dict | list) or not node or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    if isinstance(node, list):
        at = draw(st.integers(0, len(node) - 1))
        return [*node[:at], _spoil(draw, node[at]), *node[at:][draw(st.integers(0, 1)) :]]
    word = draw(st.sampled_from(sorted(node)))
    match draw(st.sampled_from(["below", "below", "below", "out", "rename", "another"])):
        case "below":
            return node | {word: _spoil(draw, node[word])}
        case "out":
            return {other: value for other, value in node.items() if other != word}
        case "rename":
            return {draw(st.text(max_size=6)) if other == word else other: value for other, value in node.items()}
        case _:
            return node | {draw(st.sampled_from([*sorted(node), "ssh", "bogus"])): node[word]}


@pytest.mark.parametrize("spoilt", [spoilt_bytes, spoilt_nodes])
@pytest.mark.parametrize("kind", READERS)
@settings(
    max_examples=5 * settings.default.max_examples,  # each takes a millisecond
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_spoilt_file_is_read_or_is_an_error_in_its_place(
    spoilt: Callable[..., st.SearchStrategy[bytes]], kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    goods, read = READERS[kind]
    text = data.draw(spoilt(data.draw(st.sampled_from(goods))))
    try:
        read(text, tmp_path)
    except Invalid as error:
        assert error.problems
        for problem in error.problems:
            where = problem.where
            assert where is not None and where.line and where.column, f"{problem.what} is nowhere"
            assert problem.what
            if kind == "keys":
                assert not re.search(r"[A-Za-z0-9+/]{30}", f"{problem.what} {problem.hint}"), "a secret is told"


@pytest.mark.parametrize("kind", READERS)
def test_what_is_spoilt_was_good(kind: str, tmp_path: Path) -> None:
    """Else the law above would hold for nothing."""
    goods, read = READERS[kind]
    assert all(read(good, tmp_path) for good in goods)
