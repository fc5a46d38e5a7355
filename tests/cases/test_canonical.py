"""The canonical text, case by case: the same files are run by meshd's conf/canonical.rs."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshctl.core import canonical, wgread

CASES = sorted((Path(__file__).parent / "canonical").glob("*.conf"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_canonical(case: Path) -> None:
    expected = case.with_suffix(".canonical").read_text()
    assert canonical.format(canonical.public(wgread.read(case.read_text(), case.name))) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_canonical_text_reads_back(case: Path) -> None:
    expected = case.with_suffix(".canonical").read_text()
    assert canonical.format(canonical.read(expected)) == expected
