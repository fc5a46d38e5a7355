"""The JSON schema of mesh.yaml, for editors: `meshctl schema > mesh.schema.json`; made of language.py's models."""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain data; a file it accepts may still break a rule that needs two places of the file."""
    from meshctl.core.language import MeshFile  # noqa: PLC0415 - see language.py

    schema = MeshFile.model_json_schema()
    return {"$schema": DIALECT, "title": "mesh.yaml"} | {k: v for k, v in schema.items() if k != "title"}
