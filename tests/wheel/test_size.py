"""The daemon stays as small as it has become: what was built last is held against a limit.

One limit for what is shipped (`make release`: musl) and one for the plain build that tests run on (glibc). Each is
what was reached on Debian 12 and a few per cent. A binary above it isn't broken, but somebody should know why it grew.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BINARIES = sorted((ROOT / "roles/daemon/files/bin").glob("*/meshd"))

# Bytes. Where the rest goes: docs/explanation/performance.md, "What the bytes are".
SHIPPED = 1_572_864
PLAIN = 2_960_000


def test_something_was_built() -> None:
    assert BINARIES, "nothing was built: make build"


@pytest.mark.parametrize("binary", BINARIES, ids=lambda path: path.parent.name)
def test_the_daemon_is_small(binary: Path) -> None:
    content = binary.read_bytes()
    limit = PLAIN if b"glibc" in content or b"GNU C Library" in content else SHIPPED
    assert len(content) <= limit, (
        f"{binary} has {len(content)} bytes, {len(content) - limit} more than it may. What grew: build it with "
        "CARGO_PROFILE_RELEASE_STRIP=false, then `nm --size-sort`. If it is worth its bytes, raise the limit here "
        "and say so in docs/explanation/performance.md."
    )
