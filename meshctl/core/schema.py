"""The JSON schema of mesh.yaml, for editors: `meshctl schema > mesh.schema.json`; made of language.py's models."""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain data; a file it accepts may still break a rule that needs two places of the file."""
    from meshctl.core.language import MeshFile  # noqa: PLC0415 - see language.py

    schema: dict[str, Any] = _without_null(MeshFile.model_json_schema())
    return {"$schema": DIALECT} | schema | {"title": "mesh.yaml"}


def _without_null(node: Any) -> Any:  # noqa: ANN401 - JSON
    """A word that isn't wanted is left out of the file, not written as null: editors needn't offer that."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    choices = [choice for choice in made.get("anyOf", []) if choice != {"type": "null"}]
    if "anyOf" not in made:
        return made
    del made["anyOf"]
    return (choices[0] | made) if len(choices) == 1 else {"anyOf": choices} | made
