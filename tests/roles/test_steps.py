"""The steps of the collection without a host: what is sent for what was seen. The seam is Remote, a plain function."""

import hashlib
import importlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .hosts import ROOT

ROLE_FILES = ROOT / "roles" / "daemon" / "files"
CONF = b"[Interface]\nPrivateKey = gA4Yq+k7bnwLXKJsLbSGSfQmKkc1lBnCnSCjkbOy+F0=\nListenPort = 51820\n"
CONF_SHA256 = "c" * 64
GUARDS = ("meshd-guard@.service", "meshd-guard.openrc")


@pytest.fixture(scope="module")
def utils(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A module of the collection by name, imported as Ansible does: below ansible_collections."""
    top = tmp_path_factory.mktemp("collections")
    subprocess.run([sys.executable, str(ROOT / "meshctl" / "ansible" / "link_collection.py"), str(top)], check=True)
    sys.path.insert(0, str(top))
    yield lambda name: importlib.import_module(f"ansible_collections.meshctl.mesh.plugins.plugin_utils.{name}")
    sys.path.remove(str(top))


class Script:
    """A host that answers with what it is told to, and remembers what it was asked."""

    def __init__(self, utils: Callable[[str], Any], *answers: tuple[int, str, str]) -> None:
        self.completed, self.answers = utils("steps").Completed, list(answers)
        self.asked: list[tuple[str, bytes]] = []

    def __call__(self, command: str, stdin: bytes) -> Any:
        self.asked.append((command, stdin))
        return self.completed(*self.answers.pop(0))


@pytest.fixture
def role_files(tmp_path: Path) -> Path:
    for unit in ("meshd@.service", "without-credentials/meshd@.service", *GUARDS, "meshd.openrc"):
        (tmp_path / "files" / unit).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / unit).write_bytes((ROLE_FILES / unit).read_bytes())
    (tmp_path / "files" / "bin" / "x86_64").mkdir(parents=True)
    (tmp_path / "files" / "bin" / "x86_64" / "meshd").write_bytes(b"the binary")
    return tmp_path / "files"


@pytest.fixture
def bundle(utils: Callable[[str], Any], tmp_path: Path) -> Any:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "prod.conf").write_bytes(CONF)
    manifest = {"schema": 1, "name": "prod", "version": "0.1.0"}
    manifest |= {"conf_id": hashlib.sha256(CONF).hexdigest(), "conf_sha256": CONF_SHA256}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return utils("bundle").read(folder)


def observed(*more: str, **words: str) -> str:
    """observe.sh's answer of a fresh systemd host, with other words where given; `more` are lines added."""
    said = {"uid": "0", "arch": "x86_64", "kernel": "6.1.0", "init": "systemd", "systemd": "252", "credentials": "yes"}
    said |= {"tun": "yes", "binary": "none", "manifest": "none", "service": "inactive disabled", "link": "none"}
    said |= {"ports": "53,123", "report": "none"} | words
    return "\n".join(["meshctl-observe 1", *(f"{word} {value}" for word, value in said.items()), *more, "end", ""])


def settled(utils: Callable[[str], Any], bundle: Any, role_files: Path, **words: str) -> str:
    """The answer of a host that has everything, as the steps' own manifest says it."""
    files, host = utils("files"), utils("host")
    entries = files.wanted(host.parse(observed(**words)), bundle, role_files)
    lines = [f"file {entry.placed.sha256} {entry.placed.mode} {entry.path}" for entry in entries[:-1]]
    report = {"conf": "x", "running": "x", "conf_sha256": CONF_SHA256, "running_sha256": CONF_SHA256}
    there = {"manifest": entries[-1].content.decode().strip(), "service": "active enabled", "link": "ours"}
    return observed(*lines, **(there | {"report": json.dumps(report)} | words))


def test_a_host_that_has_everything_is_not_contacted(utils: Any, bundle: Any, role_files: Path) -> None:
    steps = utils("steps")
    seen = settled(utils, bundle, role_files)
    script = Script(utils)
    remote = steps.Remote(script, diff=True)
    assert steps.daemon(remote, bundle, seen, role_files, None).changes == ()
    assert steps.stage(remote, bundle, seen).changes == ()
    assert script.asked == []


def test_a_fresh_host_gets_everything_in_one_stream(utils: Any, bundle: Any, role_files: Path) -> None:
    steps = utils("steps")
    script = Script(utils, (0, "changed /usr/local/bin/meshd\nchanged started\n", ""))
    outcome = steps.daemon(steps.Remote(script), bundle, observed(), role_files, None)
    assert outcome.changes == ("/usr/local/bin/meshd", "started")
    [(command, stream)] = script.asked
    assert "PrivateKey" not in command
    assert CONF not in stream
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        listed = tar.extractfile("list").read().decode().splitlines()
        assert tar.extractfile("0").read() == b"the binary"
    assert listed == [
        "file 0755 0 /usr/local/lib/meshd/0.1.0/meshd",
        "link 0.1.0 /usr/local/lib/meshd/current",
        "link /usr/local/lib/meshd/current/meshd /usr/local/bin/meshd",
        "file 0644 3 /etc/systemd/system/meshd@.service",
        "file 0644 4 /etc/systemd/system/meshd-guard@.service",
        "file 0600 5 /etc/meshd/prod.manifest.json",
        "service reload",
        "service restart",
    ]


def test_only_what_differs_is_sent(utils: Any, bundle: Any, role_files: Path) -> None:
    files, host = utils("files"), utils("host")
    seen = settled(utils, bundle, role_files).replace(
        " 0644 /etc/systemd/system/meshd@", " 0600 /etc/systemd/system/meshd@"
    )
    plan = files.plan(host.parse(seen), bundle, role_files)
    assert [entry.path for entry in plan.place] == ["/etc/systemd/system/meshd@.service"]
    assert plan.changes == ["/etc/systemd/system/meshd@.service", "restarted"]


def test_a_daemon_of_another_version_makes_way(utils: Any, bundle: Any, role_files: Path) -> None:
    files, host = utils("files"), utils("host")
    seen = settled(utils, bundle, role_files)
    (role_files / "bin" / "x86_64" / "meshd").write_bytes(b"another binary")
    plan = files.plan(host.parse(seen), bundle, role_files)
    paths = ["/usr/local/lib/meshd/0.1.0/meshd", "/etc/meshd/prod.manifest.json"]
    assert plan.changes == [*paths, "upgraded"]
    assert (plan.restart, plan.upgrade) == (False, True)


def test_another_guard_is_no_reason_to_restart(utils: Any, bundle: Any, role_files: Path) -> None:
    files, host = utils("files"), utils("host")
    guard = "/etc/systemd/system/meshd-guard@.service"
    seen = settled(utils, bundle, role_files).replace(f" 0644 {guard}", f" 0600 {guard}")
    plan = files.plan(host.parse(seen), bundle, role_files)
    assert plan.changes == [guard]
    assert (plan.reload, plan.restart) == (True, False)


def test_a_file_of_an_older_version_is_retired(utils: Any, bundle: Any, role_files: Path) -> None:
    files, host = utils("files"), utils("host")
    old = "/usr/local/lib/meshd/0.0.9/meshd"
    manifest = json.dumps({"schema": 1, "name": "prod", "version": "0.0.9", "files": [{"path": old}]})
    plan = files.plan(host.parse(observed(f"file {'d' * 64} 0755 {old}", manifest=manifest)), bundle, role_files)
    assert plan.retire == (old,)


def test_the_file_of_another_mesh_is_not_retired(utils: Any, bundle: Any, role_files: Path) -> None:
    files, host = utils("files"), utils("host")
    seen = host.parse(observed(f"file {'d' * 64} 0755 /etc/init.d/meshd.blue"))
    assert files.plan(seen, bundle, role_files).retire == ()


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        ({"credentials": "yes"}, "meshd@.service"),
        ({"credentials": "no"}, "without-credentials/meshd@.service"),
        ({"init": "openrc"}, "meshd.openrc"),
    ],
)
def test_the_service_is_of_the_hosts_init(
    utils: Any, bundle: Any, role_files: Path, words: dict[str, str], unit: str
) -> None:
    files, host = utils("files"), utils("host")
    entries = files.wanted(host.parse(observed(**words)), bundle, role_files)
    assert entries[3].content == (role_files / unit).read_bytes()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"uid": "1000"}, "no-root"),
        ({"tun": "no"}, "no-tun"),
        ({"arch": "riscv64"}, "arch"),
        ({"link": "foreign"}, "foreign-link"),
        ({"ports": "53,51820"}, "port-taken"),
    ],
)
def test_preflight_stops_what_cannot_succeed(
    utils: Any, bundle: Any, role_files: Path, words: dict[str, str], code: str
) -> None:
    steps = utils("steps")
    remote = steps.Remote(Script(utils, (0, observed(**words), "")))
    with pytest.raises(utils("fault").Fault) as found:
        steps.preflight(remote, bundle, role_files, None)
    assert found.value.code == code
    assert found.value.hint


def test_a_daemon_whose_program_was_deleted_is_no_other_program(utils: Any, bundle: Any, role_files: Path) -> None:
    steps = utils("steps")
    seen = settled(utils, bundle, role_files, report="none", ports="53,51820")
    assert steps.preflight(steps.Remote(Script(utils, (0, seen, ""))), bundle, role_files, None).observed == seen


def test_the_key_goes_to_stdin_and_nowhere_else(utils: Any, bundle: Any) -> None:
    steps = utils("steps")
    script = Script(utils, (0, "", ""))
    outcome = steps.stage(steps.Remote(script, diff=True), bundle, observed())
    [(command, stdin)] = script.asked
    assert stdin == CONF
    secret = "gA4Yq"
    assert secret not in command + repr(outcome) + repr(bundle)


def test_check_mode_asks_nothing_of_a_fresh_host(utils: Any, bundle: Any, role_files: Path) -> None:
    steps = utils("steps")
    script = Script(utils)
    remote = steps.Remote(script, check=True, diff=True)
    assert "started" in steps.daemon(remote, bundle, observed(), role_files, None).changes
    assert steps.stage(remote, bundle, observed()).changes == ("staged",)
    assert steps.switch(remote, bundle, observed(), 60).changes == ("switched",)
    assert script.asked == []


def test_a_warning_before_it_is_not_the_fault(utils: Any) -> None:
    said = "meshd: warning: RouteUsers: a gap (name it)\nmeshd: RouteUsers: no user ghost here (make it first)\n"
    found = utils("fault").of_meshd(3, said, "other")
    assert (found.what, found.hint) == ("RouteUsers: no user ghost here", "make it first")


@pytest.mark.parametrize(
    ("exit_code", "stderr", "code"),
    [
        (3, "meshd: line 3: unknown key Adress (did you mean Address?)", "bad-conf"),
        (1, "meshd: prod: UDP port 51820 is in use (choose another)", "port-taken"),
        (1, "meshd: prod: there is a foreign link of that name (rename it)", "foreign-link"),
        (1, "meshd: /etc/meshd/prod.next: No space left on device (os error 28) (run it as root)", "disk-full"),
        (4, "meshd: prod is not running (systemctl start meshd@prod)", "other"),
    ],
)
def test_meshds_words_become_faults(utils: Any, exit_code: int, stderr: str, code: str) -> None:
    found = utils("fault").of_meshd(exit_code, stderr, "other")
    assert found.code == code
    assert not found.what.endswith(")")


def test_a_full_disk_is_no_want_of_root(utils: Any) -> None:
    said = "meshd: /etc/meshd/prod.next: No space left on device (os error 28) (run it as root)"
    found = utils("fault").of_meshd(1, said, "other")
    assert (found.what, found.hint) == ("no space left for /etc/meshd/prod.next", utils("fault").HINTS["disk-full"])


def test_a_failed_first_install_is_taken_away_again(utils: Any, bundle: Any) -> None:
    steps = utils("steps")
    script = Script(utils, (1, "", "meshd: prod: told to fail (stop that)"), (0, "", ""))
    with pytest.raises(utils("fault").Fault):
        steps.stage(steps.Remote(script), bundle, observed())
    assert [command for command, _ in script.asked][1] == "sh -s -- prod systemd"


def test_a_failed_change_takes_nothing_away(utils: Any, bundle: Any, role_files: Path) -> None:
    steps = utils("steps")
    seen = settled(utils, bundle, role_files).replace(CONF_SHA256, "e" * 64)
    script = Script(utils, (1, "", "meshd: prod: told to fail (stop that)"))
    with pytest.raises(utils("fault").Fault):
        steps.stage(steps.Remote(script), bundle, seen)
    assert len(script.asked) == 1
