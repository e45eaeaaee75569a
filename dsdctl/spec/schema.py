"""JSON Schemas of what a user writes, for editors."""

from typing import Any

from dsdctl.spec.experiment import Experiment, Recipe


def spec_schema() -> dict[str, Any]:
    """The schema of a spec: that of its model, and the `matrix`, which is expanded before it."""
    schema = Experiment.model_json_schema()
    cells = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    schema["properties"]["matrix"] = {
        "title": "Matrix",
        "description": "dotted paths to lists of values, or a list of such mappings; each "
        "combination is a variant",
        "anyOf": [cells, {"type": "array", "items": cells, "minItems": 1}],
    }
    return schema


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe."""
    return Recipe.model_json_schema()
