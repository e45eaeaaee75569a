"""Any text and any data is a model, or an error that names its place."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from builders import (
    SPEC,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdctl.errors import InputError
from dsdctl.spec.document import Document, Mark
from dsdctl.spec.experiment import Experiment, Recipe
from dsdctl.spec.problems import validate
from dsdctl.spec.yaml import parse_document

FILE = Path("folder/some.yaml")


def parse(text: str) -> dict[str, Any]:
    return parse_document(text, FILE).data


SYNTAX = st.text(alphabet="ab01.:-+?,#&*!|>%@`'\"\\ \n\t[]{}~=<é\x00\x85")


OTHER_KEYS = "title name arch validation augment optimizer schedule milestones wandb mean distill"


KEYS = st.sampled_from([*Experiment.model_fields, *OTHER_KEYS.split()]) | st.text(max_size=5)


WORDS = st.sampled_from(["vgg-like", "resnet18", "none", "test", "digits", "npz", "best", "paired"])


NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)


def json_data(words: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | NUMBERS | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
        max_leaves=12,
    )


ANYTHING = json_data(KEYS | WORDS)


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


def key_paths(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(data, list):
        data = dict(enumerate(data))
    if isinstance(data, dict):
        for key, value in data.items():
            yield from key_paths(value, (*path, key))


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except InputError as error:
        return error


def is_located(found: object) -> bool:
    """Whether it is an InputError with a problem, and each problem names the line."""
    lines = found.problems if isinstance(found, InputError) else ()
    return bool(lines) and all(line.startswith(f"{FILE}:1: ") for line in lines)


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=60) | SYNTAX)
def test_any_text_is_a_mapping_or_an_input_error(text: str) -> None:
    found = outcome(lambda: parse(text))
    assert isinstance(found, dict | InputError)


@settings(deadline=None, max_examples=100)
@given(data=st.dictionaries(KEYS, ANYTHING, max_size=6), over_spec=st.booleans())
def test_any_data_is_a_model_or_an_input_error(data: dict[str, Any], over_spec: bool) -> None:
    whole = {**SPEC, **data} if over_spec else data
    document = Document(whole, {path: Mark(FILE, 1) for path in key_paths(whole)})
    for model in (Experiment, Recipe):
        found = outcome(lambda model=model: validate(model, document))
        assert isinstance(found, model) or is_located(found)


@settings(deadline=None, max_examples=60)
@given(data=st.dictionaries(PRINTABLE, json_data(PRINTABLE), max_size=4))
def test_json_is_read_as_what_it_says(data: dict[str, Any]) -> None:
    assert parse(json.dumps(data)) == data
