"""Validates documents, and turns pydantic's errors into messages with file, line and key."""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from dsdctl.errors import Problems, shortened
from dsdctl.spec.document import Document, KeyPath
from dsdctl.spec.fields import NAME_PATTERN, OWN_PATTERN, PYTHON_NAME_PATTERN, TEXT_PATTERN
from dsdctl.spec.network import BUILT_IN


def problem_line(model: type[BaseModel], document: Document, details: ErrorDetails) -> str:
    """The message for one of pydantic's errors: `file:line: key.path: reason`."""
    value = details["input"]
    if details["type"] == "none_of_these" and value and isinstance(value, dict):
        # No member of the union has any of these keys: report the first as unknown.
        location = (*details["loc"], next(iter(value)))
        details = {**details, "type": "extra_forbidden", "loc": location}
    path, owners = _locate(model, document, details)
    return document.problem(path, _reason(details, path, owners))


def _reason(details: ErrorDetails, path: KeyPath, owners: list[type[BaseModel]]) -> str:
    """What is wrong and what is allowed, reworded where pydantic's message is not for users."""
    context, value = details.get("ctx", {}), details["input"]
    match details["type"]:
        case "extra_forbidden" if owners:
            names = [name for owner in owners for name in keys_of(owner)]
            return f"unknown key{nearest(path[-1], names)} (allowed: {', '.join(names)})"
        case "missing":
            return "is missing"
        case "literal_error":
            return _none_of(_quoted(context["expected"]), value)
        case "union_tag_invalid":
            own = [OWN_FORM] if BUILT_IN in details["loc"] else []
            return _none_of([*_quoted(context["expected_tags"]), *own], context["tag"])
        case "none_of_these":
            return _none_of(context["allowed"].split(", "), value)
        case "union_tag_not_found":
            return f"{context['discriminator'].strip(chr(39))} is missing"
        case "string_pattern_mismatch":
            pattern = context["pattern"]
            return f"is {_show(value)} (allowed: {_PATTERNS.get(pattern, pattern)})"
        case "too_short" | "string_too_short":
            return "is empty"
        case "string_too_long":
            most = context["max_length"]
            return f"has {len(value)} characters (allowed: at most {most})"
        case "too_long":
            return (
                f"has {context['actual_length']} items (allowed: at most {context['max_length']})"
            )
        case "value_error":
            return str(context["error"])
    example = _example(details["type"], path)
    return f"is {_show(value)} (allowed: {_expected(details['msg'])}{example})"


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys that a mapping of this model may have in a file."""
    return (*model.model_fields, *getattr(model, "WRITTEN_BESIDE", ()))


EXAMPLES = {
    "augment": "{flip: true, crop: 4}",
    "betas": "[0.9, 0.999]",
    "dataset": "{name: cifar10}",
    "deviations": "[a sentence]",
    "distill": "{teacher: best, alpha: 0.8, temperature: 10}",
    "hidden": "[1000, 100]",
    "ignore": "[last]",
    "label_noise": "{kind: symmetric, rate: 0.2}",
    "milestones": "[80, 120]",
    "normalize": "{mean: [0.5], std: [0.5]}",
    "optimizer": "{lr: 0.1, momentum: 0.9}",
    "pruning": "{fraction: 0.2, levels: 29}",
    "recipes": "[vanilla, kd-pruned-teacher]",
    "reference": "{vanilla: {pflops: 48.84}}",
    "schedule": "{milestones: [80, 120], gamma: 0.1}",
    "seeds": "[0, 1, 2]",
    "sparsities": "[0.5, 0.9]",
    "stop": "{patience: 1, tolerance: 0.01}",
    "student": "{arch: vgg-like, depth: 5, width: 32}",
    "teacher": "{arch: resnet18}",
    "test": "{fraction: 0.2}",
    "tracking": "{wandb: {project: dsd}}",
    "training": "{epochs: 160, batch_size: 128, optimizer: {lr: 0.1}}",
    "wandb": "{project: dsd}",
}
"""Examples of mappings and lists in YAML, by the last key of their path."""


def _example(kind: str, path: KeyPath) -> str:
    """An example of the mapping or list that is expected; empty if another type is."""
    listed = kind in ("tuple_type", "list_type")
    example = EXAMPLES.get(str(path[-1])) if path else None
    if example is None or not (
        listed or kind in ("model_type", "dict_type", "model_attributes_type")
    ):
        return ""
    return f" such as {example}" if listed == example.startswith("[") else ""


def _quoted(text: str) -> list[str]:
    """The words in single quotes in one of pydantic's messages."""
    return re.findall(r"'([^']*)'", text)


def _expected(message: str) -> str:
    """The expectation in one of pydantic's messages, in fewer words."""
    expected = message.removeprefix("Input should be ").replace("a valid ", "a ")
    expected = expected.replace("an object", "a mapping")
    for words, sign in _SIGNS.items():
        expected = expected.replace(words, sign)
    return re.sub(r"\ba (?=[aio])", "an ", expected)


_SIGNS = {
    "greater than or equal to": ">=",
    "less than or equal to": "<=",
    "greater than": ">",
    "less than": "<",
}

OWN_FORM = "FILE.py:NAME"

_PATTERNS = {
    NAME_PATTERN: "letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first",
    TEXT_PATTERN: "one line of text without control characters",
    PYTHON_NAME_PATTERN: "a name in Python",
    OWN_PATTERN: f"{OWN_FORM} or PACKAGE.MODULE:NAME",
}


def _none_of(allowed: list[str], value: Any) -> str:
    return f"is {_show(value)}{nearest(value, allowed)} (allowed: {', '.join(allowed)})"


def nearest(word: Any, allowed: list[str]) -> str:
    """`; did you mean WORD?` with the most similar allowed word; empty if none is similar."""
    near = difflib.get_close_matches(str(word), allowed, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _show(value: Any) -> str:
    return shortened(json.dumps(value, default=str), 60)


def _locate(
    model: type[BaseModel], document: Document, details: ErrorDetails
) -> tuple[KeyPath, list[type[BaseModel]]]:
    """Turn pydantic's location into the user's key path, and the models that the last key is in.

    pydantic's location also has the names of union members that it tried, which no user wrote.
    """
    *inner, last = details["loc"] or ("",)
    path: KeyPath = ()
    types_here: Any = model
    for key in inner:
        if (*path, key) in document.marks:
            path = (*path, key)
            types_here = _type_of(types_here, key)
        else:
            types_here = _branch(types_here, str(key))
    if details["type"] == "union_tag_invalid":
        # In a union within a union, the last key may be the tag of the inner one.
        path = (*path, last) if (*path, last) in document.marks else path
        return (*path, details["ctx"]["discriminator"].strip("'")), []
    written = (*path, last) in document.marks or details["type"] == "missing"
    return ((*path, last) if written else path), [owner for _, owner in _models(types_here)]


def _type_of(annotation: Any, key: str | int) -> Any:
    """The type of a model's field, or of the items of a list, tuple or mapping."""
    for _, model in _models(annotation):
        if key in model.model_fields:
            info = model.model_fields[str(key)]
            return (
                typing.Annotated[info.annotation, *info.metadata]
                if info.metadata
                else info.annotation
            )
    arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    return arguments[-1] if arguments else None


def _branch(annotation: Any, tag: str) -> Any:
    """The member of a union that pydantic calls `tag`; it may be a union itself."""
    found = tuple(model for names, model in _models(annotation) if tag in names)
    return typing.Union[found] if found else annotation  # noqa: UP007


def _models(
    annotation: Any, tags: frozenset[str] = frozenset()
) -> Iterator[tuple[set[str], type[BaseModel]]]:
    """Yield the models in a union, each with the names that pydantic may have for it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        literals = {
            value
            for info in annotation.model_fields.values()
            if typing.get_origin(info.annotation) is typing.Literal
            for value in typing.get_args(info.annotation)
        }
        yield {annotation.__name__, *literals, *tags}, annotation
    elif typing.get_origin(annotation) is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        names = frozenset(item.tag for item in metadata if isinstance(item, Tag))
        yield from _models(inner, tags | names)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _models(member, tags)


Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], document: Document) -> Model:
    """Turn a document into a model. Raises InputError with all problems at once."""
    try:
        # As JSON: types are strict, but lists are accepted for tuples.
        return model.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        problems = Problems()
        for details in error.errors():
            # A list of which every item is invalid is also reported as empty, which adds nothing.
            if details["type"] == "too_short" and details["input"]:
                continue
            if problems.full:
                problems.more += 1
            else:
                problems.add(problem_line(model, document, details))
        raise problems.error() from error
