"""The reference of specs, recipes and cluster.yaml as Markdown, made from their JSON Schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dsdctl.slurm.config import Cluster
from dsdctl.spec.experiment import Experiment, Recipe
from dsdctl.spec.matrix import MAX_CELLS, MAX_TRAININGS

Schema = Mapping[str, Any]

INTRODUCTION = (
    "Made by `dsdctl schema --markdown` from the models that check your files; unknown keys are "
    'errors, and so is `"160"` where a number is meant. A spec may also have a `matrix`: a '
    "mapping of dotted paths to lists of values, or a list of such mappings; each combination is a "
    f"variant. Variants x recipes x seeds are at most {MAX_CELLS:,}, and all their levels at most "
    f"{MAX_TRAININGS:,}."
)

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def reference() -> str:
    """One page: the keys of a spec, of a recipe and all that they hold, and of a cluster.yaml."""
    parts = ["# Reference of specs, recipes and cluster.yaml", INTRODUCTION]
    shown: set[str] = set()
    for title, schema in (
        ("A spec", Experiment.model_json_schema()),
        ("A recipe", Recipe.model_json_schema()),
        ("A cluster.yaml", Cluster.model_json_schema()),
    ):
        parts += _section(f"## {title}", schema)
        for name, part in schema.get("$defs", {}).items():
            if name not in shown and "properties" in part:
                shown.add(name)
                parts += _section(f"### {name}", part)
    return "\n\n".join(parts)


def _section(heading: str, schema: Schema) -> Iterator[str]:
    """A model: its heading, what it says of itself, and a table of its keys."""
    yield heading
    lines = schema.get("description", "").splitlines()
    if any(line.startswith("  ") for line in lines[1:]) or "  " in schema.get("description", ""):
        yield "\n".join(f"    {line}".rstrip() for line in lines)
    elif lines:
        yield "\n".join(lines)
    required = schema.get("required", ())
    rows = [
        f"| `{name}` | {_cell(kind(part))} | {_default(name, part, required)} | "
        f"{_cell(part.get('description', ''))} |"
        for name, part in schema["properties"].items()
    ]
    yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _default(name: str, part: Schema, required: Any) -> str:
    if name in required:
        return "*required*"
    default = part.get("default")
    if isinstance(default, dict):
        default = {key: value for key, value in default.items() if value is not None} or None
    return "" if default is None else _cell(f"`{json.dumps(default)}`")


def kind(part: Schema) -> str:
    """What a value may be, in a few words."""
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return "anything" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in part:
            return " or ".join(dict.fromkeys(kind(one) for one in part[several] if one != NULL))
    if "const" in part or "enum" in part:
        return ", ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        inner = part.get("items") or part["prefixItems"][0]
        return f"list of {kind(inner)}"
    if part.get("type") == "object":
        (values,) = part.get("patternProperties", {"": part.get("additionalProperties")}).values()
        return f"mapping of names to {kind(values)}"
    bounds = [f"{words} {part[key]}" for key, words in _BOUNDS.items() if key in part]
    return ", ".join([str(part.get("type", "any")), *bounds])


NULL = {"type": "null"}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
