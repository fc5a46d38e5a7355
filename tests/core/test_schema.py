"""The JSON schema: it accepts what parse accepts, and an editor is told of unknown words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from meshctl.core import tree
from meshctl.core.schema import json_schema
from meshctl.shell import yamlfile

from .made import THREE, problems_of, spec_of

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted([*ROOT.glob("examples/*/mesh.yaml"), *ROOT.glob("inventories/*/mesh.yaml")])


def data_of(text: str) -> Any:
    return tree.plain(yamlfile.parse(text.encode(), "mesh.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_every_example_is_a_mesh_by_both(path: Path) -> None:
    spec_of(path.read_text())
    jsonschema.validate(data_of(path.read_text()), json_schema())


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize(
    "text",
    [
        THREE + "link: full\n",
        THREE + "port: 70000\n",
        THREE + "links: {hubs: a}\n",
        THREE.replace("nat: true", "nat: maybe"),
        THREE.replace("mesh: prod", "mesh: PROD"),
        "mesh: m\n",
    ],
)
def test_both_refuse(text: str) -> None:
    assert problems_of(text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data_of(text), json_schema())


def test_every_word_is_described() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    words = {**schema["properties"], **schema["$defs"]["Defaults"]["properties"]}
    assert [w for w, about in words.items() if not about.get("description")] == []
    assert schema["title"] == "mesh.yaml"
    assert '"null"' not in str(schema).replace("'", '"')
