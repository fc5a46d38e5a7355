"""The house: who may import whom, and what the core may not touch. House rules as tests, with their reasons in them."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "meshctl"
CORE = sorted((PACKAGE / "core").glob("*.py"))

# The river, left to right; a stage sees only what stands before it.
RIVER = [
    "errors",
    "tree",
    "spelling",
    "ip",
    "names",
    "users",
    "keys",
    "spec",
    "language",
    "shape",
    "parse",
    "schema",
    "addresses",
    "lock",
    "rotation",
    "topology",
    "mesh",
    "closed",
    "machines",
    "wgconf",
    "wgread",
    "canonical",
    "bundle",
    "jsonread",
    "report",
    "changes",
    "reach",
    "plan",
    "planjson",
    "status",
    "graph",
]

# What the core is made of besides itself: pure parts of the standard library, and two libraries of the field.
PURE = {
    "__future__",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "datetime",  # for the grammar of a time, never for the time it is
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "html",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "nacl",
    "pydantic",
    "pydantic_core",
    "re",
    "typing",
}
ONLY_IN = {"pydantic": {"language", "shape"}, "pydantic_core": {"language", "shape"}, "nacl": {"keys"}}
IMPURE_FUNCTIONS = {"open", "print", "input", "exec", "eval", "breakpoint"}
IMPURE_METHODS = {"now", "utcnow", "today"}


def _trees(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; of `from meshctl.core import x` the full name of x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room they reach into"
            module = node.module or ""
            if module in ("meshctl", "meshctl.core", "meshctl.shell"):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def test_the_river_names_every_stage() -> None:
    assert sorted(RIVER) == sorted(p.stem for p in CORE if p.stem != "__init__")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_is_pure_and_data_flows_right(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path))
    for module, line in _imports(tree):
        top = module.partition(".")[0]
        if top == "meshctl":
            room, stage = [*module.split("."), ""][1:3]
            assert room == "core", (
                f"{path.name}:{line} imports {module}: the core knows only itself; what it needs is passed as a value"
            )
            assert RIVER.index(stage) < RIVER.index(path.stem), (
                f"{path.name}:{line} imports {stage}, which stands to its right: data flows right only; "
                "move what both need to the left, or pass it as a value"
            )
        else:
            assert top in PURE, (
                f"{path.name}:{line} imports {module}: the core is pure (no files, clock, network, randomness, YAML or "
                "Ansible), so that a plan can be tested as a function; let the shell do it and hand over a value"
            )
            assert path.stem in ONLY_IN.get(top, {path.stem}), (
                f"{path.name}:{line} imports {module}, which only {ONLY_IN[top]} may: it is slow to load"
            )


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_calls_nothing_impure(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            function = node.func.id if isinstance(node.func, ast.Name) else ""
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            assert function not in IMPURE_FUNCTIONS and method not in IMPURE_METHODS, (
                f"{path.name}:{node.lineno} calls {function or method}(): "
                "the same values must always give the same result"
            )


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_data_is_frozen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                written = ast.unparse(decorator)
                assert not written.startswith("dataclass") or ("frozen=True" in written and "slots=True" in written), (
                    f"{path.name}:{node.lineno} {node.name} isn't frozen: data is frozen, a change is a new value"
                )


def test_the_shell_reaches_for_nothing_above_it() -> None:
    """The shell knows core's types; flow, cli and what shows things stand above it."""
    for path, tree in _trees(PACKAGE / "shell"):
        for module, line in _imports(tree):
            room = [*module.split("."), ""][1] if module.startswith("meshctl") else "core"
            assert room in ("core", "shell", "version", ""), (
                f"{path.relative_to(ROOT)}:{line} imports {module}: the shell is hands; flow tells it what to do"
            )


def test_only_flow_sees_core_and_shell() -> None:
    """A command is read, flow, show; what talks with the user asks the shell for passwords and file names, no more."""
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem == "options":
            continue
        for module, line in _imports(ast.parse(path.read_text())):
            assert not module.startswith("meshctl.shell"), (
                f"{path.name}:{line} imports {module}: only flow knows core and shell, so the river is in one place"
            )


def test_only_the_screen_prints() -> None:
    for path, tree in _trees(PACKAGE):
        if path.name == "screen.py" or "ansible" in path.parts:
            continue
        for node in ast.walk(tree):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, (
                f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} prints: one place turns values into sentences, "
                "so that --json, colour and secrets are right everywhere"
            )


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_a_file_says_what_it_is_and_fits_the_head(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path.name} doesn't say what it is"
    assert len(text.splitlines()) <= 430, f"{path.name}: a file one can't hold in the head is two files"


# The daemon's rooms: which crate may use which, and the two that may say `unsafe` (ARCHITECTURE.md, "The rooms").
CRATES: dict[str, set[str]] = {
    "os": set(),
    "aead": set(),
    "proto": {"aead"},
    "packet": {"proto", "os"},
    "meshd": {"proto", "os", "packet"},
    "fuzz": {"proto", "os", "aead", "packet", "meshd"},
}
UNSAFE = {"os", "aead"}


@pytest.mark.parametrize("crate", CRATES)
def test_a_crate_uses_what_is_below_it_and_forbids_unsafe(crate: str) -> None:
    folder = ROOT / "meshd" / crate
    manifest = tomllib.loads((folder / "Cargo.toml").read_text())
    used = {
        Path(wants["path"]).name
        for wants in manifest["dependencies"].values()
        if isinstance(wants, dict) and "path" in wants
    }
    assert used == CRATES[crate], f"{crate} uses {sorted(used)}: rules know no kernel, doors know no rules"
    forbids = "#![forbid(unsafe_code)]" in (folder / "src" / "lib.rs").read_text()
    assert forbids == (crate not in UNSAFE), f"{crate}: unsafe has its reasons in os and aead, and nowhere else"


def test_every_crate_has_its_room() -> None:
    members = tomllib.loads((ROOT / "meshd" / "Cargo.toml").read_text())["workspace"]["members"]
    assert sorted(members) == sorted(CRATES)


def test_no_two_files_of_the_daemon_know_each_other() -> None:
    root = ROOT / "meshd" / "meshd" / "src"
    knows: dict[str, set[str]] = {}
    for path in root.rglob("*.rs"):
        me = path.relative_to(root).parts[0].removesuffix(".rs")
        known = re.findall(r"\bcrate::([a-z_]+)", path.read_text())
        knows.setdefault(me, set()).update(name for name in known if name != me)
    settled: set[str] = set()
    while new := {name for name, below in knows.items() if name not in settled and below <= settled}:
        settled |= new
    circle = sorted(set(knows) - settled)
    assert not circle, f"{circle} know each other, or one that does: what two need has a home below both"


def test_every_switch_of_the_daemon_is_in_the_reference() -> None:
    """A variable that nobody can look up is a secret; one that isn't read any more is a lie."""
    named = re.compile(r"\bMESHD_[A-Z_]+[A-Z]\b")
    sources = [path for path in ROOT.glob("meshd/*/src/**/*.rs") if "tests" not in path.parts]
    read = {name for path in sources for name in named.findall(path.read_text())}
    listed = set(named.findall((ROOT / "docs/reference/switches.md").read_text()))
    assert len(sources) > 100
    assert read == listed
