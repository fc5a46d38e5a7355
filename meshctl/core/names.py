"""Names: which are allowed, and the nearest known one for a hint.

A mesh's name is an interface's name too (15 bytes: IFNAMSIZ of linux/if.h less its NUL). A host's name is one label of
a host name (RFC 1123 section 2.1), in lower case, starting with a letter so that it is never taken for an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import IPv4Address

from meshctl.core import spelling

MESH = re.compile(r"[a-z][a-z0-9-]{0,14}")
LABEL = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")

# `lo` is the loopback; `all` and `default` are directories of net.ipv4.conf (Documentation/networking/ip-sysctl.rst)
RESERVED_MESH = frozenset({"lo", "all", "default"})
# the two groups are in every inventory (inventory/data.py of ansible-core), and no host may be called as a group is
RESERVED_HOST = {
    "localhost": "every machine's own name",
    "all": "Ansible's name for every host",
    "ungrouped": "Ansible's name for hosts without a group",
}

ANY = "*"


def mesh_name_fault(text: str) -> str | None:
    """Why this can't name a mesh, or None."""
    if text in RESERVED_MESH:
        return f"{text} is a name of the kernel's own"
    if MESH.fullmatch(text) is None:
        return f"{spelling.text(text)} can't name a mesh: 1 to 15 of a-z, 0-9 and -, starting with a letter"
    return None


def label_fault(text: str, noun: str) -> str | None:
    """Why this can't name a host or a group (`noun`), or None."""
    if text in RESERVED_HOST:
        return f"{text} is {RESERVED_HOST[text]}"
    if LABEL.fullmatch(text) is None:
        rule = "1 to 63 of a-z, 0-9 and -, starting with a letter, not ending with -"
        return f"{spelling.text(text)} can't name a {noun}: {rule}"
    return None


def is_host_name(text: str) -> bool:
    """Labels of letters, digits, - and _ between dots, at most 253 bytes; digits and dots alone must be an address."""
    if re.fullmatch(r"[0-9.]+", text):
        try:
            IPv4Address(text)
        except ValueError:
            return False
        return True
    fits = all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in text.split("."))
    return fits and len(text) <= 253 and not text.startswith("-")


def tidy(text: str, limit: int = 63) -> str | None:
    """A valid name made from an invalid one, for a hint; None when nothing is left of it."""
    kept = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").lstrip("0123456789-")[:limit].rstrip("-")
    return kept if LABEL.fullmatch(kept) and kept not in RESERVED_HOST.keys() | RESERVED_MESH else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`did you mean X?` for the nearest known word, or None when none is near."""
    near = get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else None
