"""The bench is a program beside the package, so its folder is put where it looks itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "bench"))
