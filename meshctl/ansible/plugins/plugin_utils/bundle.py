"""A bundle as `meshctl render` writes it: DIR/HOST/{NAME.conf, hosts, manifest.json} (docs/reference/contracts.md §7).

Read once at the door into a value that is right: the digests match and the name is a name. The configuration holds
keys, so it is kept out of repr and leaves this value only on the way to `meshd stage` or, with keys hidden, into a
diff.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.meshctl.mesh.plugins.plugin_utils.fault import Fault

NAME = re.compile(r"[a-z][a-z0-9-]{0,14}")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]*")
DIGEST = re.compile(r"[0-9a-f]{64}")
_SECRET_LINE = re.compile(r"^(\s*(?:PrivateKey|PresharedKey|NextPrivateKey)\s*=\s*).*$", re.IGNORECASE | re.MULTILINE)
_LISTEN_PORT = re.compile(r"^\s*ListenPort\s*=\s*([0-9]{1,5})\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Bundle:
    name: str
    version: str
    conf_id: str
    conf_sha256: str
    conf: bytes = field(repr=False)

    @property
    def listen_port(self) -> int | None:
        """The UDP port the configuration asks for; None when the kernel may choose."""
        found = _LISTEN_PORT.search(self.conf.decode("utf-8", "replace"))
        return int(found[1]) or None if found else None

    @property
    def public_text(self) -> str:
        """The configuration as it may be shown: every line that holds a key which is secret, without it."""
        return _SECRET_LINE.sub(r"\1(hidden)", self.conf.decode("utf-8", "replace"))


def read(folder: Path) -> Bundle:
    """The bundle in `folder`. Fault `bad-conf` when something is missing, unreadable or contradicts itself."""
    manifest = _manifest(folder / "manifest.json")
    name, version = checked_name(manifest["name"]), manifest["version"]
    if not VERSION.fullmatch(version):
        raise Fault("bad-conf", f"{folder}/manifest.json: {version!r} is not a version")
    try:
        conf = (folder / f"{name}.conf").read_bytes()
    except OSError as error:
        raise Fault("bad-conf", f"{folder}/{name}.conf: {error.strerror}") from None
    if hashlib.sha256(conf).hexdigest() != manifest["conf_id"]:
        raise Fault("bad-conf", f"{folder}/{name}.conf is not the file that manifest.json speaks of")
    return Bundle(name, version, manifest["conf_id"], manifest["conf_sha256"], conf)


def checked_name(name: str) -> str:
    """`name` when it can be a mesh's and an interface's. Fault `bad-conf` otherwise: it goes into commands."""
    if not NAME.fullmatch(name):
        raise Fault("bad-conf", f"{name!r} is not a name of a mesh", "use the name that mesh.yaml gives")
    return name


def _manifest(path: Path) -> dict[str, str]:
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise Fault(
            "bad-conf", f"{path}: {error.strerror}", "meshd_bundle is a folder made by `meshctl render`"
        ) from None
    except ValueError:
        raise Fault("bad-conf", f"{path} is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        raise Fault("bad-conf", f"{path} has a schema that is not known here", "use roles and meshctl of one version")
    for key in ("name", "version", "conf_id", "conf_sha256"):
        if not isinstance(manifest.get(key), str):
            raise Fault("bad-conf", f"{path} lacks {key!r}")
    if not (DIGEST.fullmatch(manifest["conf_id"]) and DIGEST.fullmatch(manifest["conf_sha256"])):
        raise Fault("bad-conf", f"{path}: a digest is not SHA-256 in hex")
    return manifest
