"""The version of meshctl, and of the daemon and the collection it brings: they are released together.

pyproject.toml, meshd/Cargo.toml and galaxy.yml repeat it; tests/cli/test_version.py compares them.
"""

VERSION = "0.1.0"
