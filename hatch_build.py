"""Build hook of the wheel: says which daemon binaries it carries and refuses to carry none.

The binaries are built before the wheel by `make build` (meshd/build.sh); this hook compiles nothing, so that a wheel
can be built on a machine without Rust from binaries built elsewhere.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BINARIES = Path("roles/daemon/files/bin")
ARCHITECTURES = ("x86_64", "aarch64")


class DaemonBinaries(BuildHookInterface):  # type: ignore[type-arg]
    """Checks roles/daemon/files/bin; an editable install reads them from the checkout and is left alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises SystemExit (where, hint) when there is no binary for any architecture."""
        if version == "editable":
            return
        carried = [arch for arch in ARCHITECTURES if (Path(self.root) / BINARIES / arch / "meshd").is_file()]
        if not carried:
            raise SystemExit(f"wheel: no daemon binary in {BINARIES} (hint: make build)")
        absent = [arch for arch in ARCHITECTURES if arch not in carried]
        self.app.display_info(f"wheel: carries meshd for {', '.join(carried)}")
        if absent:
            self.app.display_warning(f"wheel: no meshd for {', '.join(absent)}; cross tools were missing")
