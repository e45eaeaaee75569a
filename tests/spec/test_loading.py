"""YAML 1.2 in, models out: what is read, what is refused, and how problems are reported."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from builders import (
    SPEC,
    error_of,
    only_problem,
    problems,
    write,
)

from dsdctl.plan.resolve import resolve
from dsdctl.slurm.config import Cluster
from dsdctl.spec.document import Document, Mark, dotted
from dsdctl.spec.experiment import Experiment, Recipe
from dsdctl.spec.problems import validate
from dsdctl.spec.yaml import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_document, read_document

FILE = Path("folder/some.yaml")


def parse(text: str) -> dict[str, Any]:
    return parse_document(text, FILE).data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5", -1.5),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30:00", "1:30:00"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2001-01-01", "2001-01-01"),
        ("=", "="),
        (".", "."),
        ('"160"', "160"),
        ("'1e-4'", "1e-4"),
    ],
)
def test_scalars_have_the_types_of_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_aliases_are_expanded_but_merge_keys_are_plain_keys() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n<<: *x") == {"a": {"b": 1}, "c": {"b": 1}, "<<": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: !!python/object:os.system x", 1, "YAML tag"),
        ("a: 1\nb: !mine {c: 1}", 2, "YAML tag"),
        ("a: 1\nb: [!mine c]", 2, "YAML tag"),
        ("a: !!set {b: null}", 1, "YAML tag"),
        ("a: !!binary aGk=", 1, "YAML tag"),
        ("a: !!timestamp 2001-01-01", 1, "YAML tag"),
        ("!mine {a: 1}", 1, "YAML tag"),
        ("a: 1\nb: 2\na: 3", 3, "given twice (first on line 1)"),
        ("a:\n  b: 1\n  b: 1", 3, "a.b: given twice (first on line 2)"),
        ("a: 1\n2: b", 2, "keys must be plain words"),
        ("true: b", 1, "keys must be plain words"),
        ("? [a, b]\n: c", 1, "keys must be plain words"),
        ("a: 1\n? !!str [a]\n: 1", 2, "keys must be plain words"),
        ("a: 1\nb: !!int abc", 2, "YAML tag"),
        ("a: 1\nb: !!int '5'", 2, "YAML tag"),
        ("a: 1\nb: !!str 5", 2, "YAML tag"),
        ("a: 1\nb: !!null x", 2, "YAML tag"),
        ('a: "\\UFFFFFFFF"', 1, "not valid YAML"),
        ("%YAML 1" + 5000 * "1" + ".1\n---\na: 1", 1, "not valid YAML"),
        ('a: 1\nb: "\\ud800"', 2, "b: is not valid Unicode"),
        ('"a\\nb\\e[31m": !x 3', 1, "a\\nb\\x1b[31m: YAML tag"),
        ("a: 1\nb: .nan", 2, "finite numbers"),
        ("a: 1\nb: -.inf", 2, "finite numbers"),
        ("a: [1,\n 1e309]", 2, "a[1]: is 1e309 (allowed: finite numbers)"),
        ("a: " + 31 * "1", 1, "too long a number"),
        ("a: b\x07", 1, "special characters are not allowed"),
        ("a: \x00", 1, "special characters are not allowed"),
        ("a: 1\nb: {c: 1", 2, "not valid YAML"),
        ("a: 1\n\tb: 1", 2, "not valid YAML"),
        ("a: 1\nb: *nowhere", 2, "undefined alias"),
        ("a: 1\n---\nb: 1", 2, "another document"),
        ("a: &x [*x]", 1, "too deeply nested"),
        ("a: " + 40 * "[" + 40 * "]", 1, "too deeply nested"),
        ("a: " + 5000 * "[", 1, "nested too deeply"),
        ("a: " + 5000 * "{b: ", 1, "nested too deeply"),
        ("", 1, "must be a mapping"),
        ("# nothing", 1, "must be a mapping"),
        ("just words", 1, "must be a mapping"),
        ("- a\n- b", 1, "must be a mapping"),
    ],
)
def test_what_is_no_plain_document_is_one_problem_with_its_line(
    text: str, line: int, words: str
) -> None:
    problem = only_problem(lambda: parse(text))
    assert problem.startswith(f"{FILE}:{line}: ")
    assert words in problem
    assert "\n" not in problem


def test_an_alias_bomb_is_refused_before_it_is_built() -> None:
    names = "abcdefghij"
    lines = ["a: &a [" + ", ".join(9 * ["x"]) + "]"]
    lines += [
        f"{name}: &{name} [{', '.join(9 * ['*' + before])}]"
        for before, name in itertools.pairwise(names)
    ]
    assert f"{MAX_NODES} values with aliases expanded" in only_problem(
        lambda: parse("\n".join(lines))
    )


def test_nesting_is_read_up_to_its_limit_and_no_further() -> None:
    def nested(depth: int) -> str:
        return "a: " + (depth - 1) * "[" + "1" + (depth - 1) * "]"

    assert parse(nested(MAX_DEPTH))
    assert f"{MAX_DEPTH} levels" in only_problem(lambda: parse(nested(MAX_DEPTH + 1)))


def test_all_problems_of_a_document_are_reported_at_once() -> None:
    text = "a: .nan\nb: !mine c\n3: d\na: 1"
    assert [line.split(": ")[0] for line in problems(lambda: parse(text))] == [
        f"{FILE}:{line}" for line in (1, 2, 3, 4)
    ]


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    head = "a: 1\n#"
    fits = write(tmp_path / "fits.yaml", head + (MAX_BYTES - len(head)) * "x")
    assert read_document(fits).data == {"a": 1}
    large = write(tmp_path / "large.yaml", fits.read_text() + "x")
    problem = only_problem(lambda: read_document(large))
    assert problem == f"{large}: {MAX_BYTES + 1} bytes (allowed: at most {MAX_BYTES})"


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_document(file).data == {"a": 1}


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("a: é".encode("latin-1"))
    assert only_problem(lambda: read_document(file)) == f"{file}: not UTF-8 text (byte 3)"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, Path("/dev/zero"), fifo):
        assert only_problem(lambda path=path: read_document(path)) == f"{path}: not a regular file"


@pytest.mark.linux
def test_a_file_of_the_kernel_s_that_never_ends_is_refused() -> None:
    """Its size is 0, and what can be read of it is not."""
    endless = Path("/proc/self/pagemap")
    problem = only_problem(lambda: read_document(endless))
    assert problem == f"{endless}: not a file of text (allowed: at most {MAX_BYTES} bytes)"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing.yaml"
    assert only_problem(lambda: read_document(file)) == f"{file}: No such file or directory"


def test_every_problem_of_a_spec_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    file = write(
        tmp_path / "spec.yaml",
        "experiment: bad name\n"
        "dataset: {name: digit}\n"
        "student: {arch: vgg-like, depth: 0}\n"
        "training:\n"
        '  epochs: "160"\n'
        "  batch_size: 1\n"
        "  optimizer: {lr: 0}\n"
        "recipes: [vanilla]\n",
    )
    assert [line.split(": ")[:2] for line in problems(lambda: resolve(file))] == [
        [f"{file}:1", "experiment"],
        [f"{file}:2", "dataset.name"],
        [f"{file}:3", "student.depth"],
        [f"{file}:5", "training.epochs"],
        [f"{file}:6", "training.batch_size"],
        [f"{file}:7", "training.optimizer.lr"],
        [f"{file}:1", "seeds"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: digit", 'dataset.name: is "digit"; did you mean digits? (allowed: digits, cifar10'),
        ("name: npz", "`name: npz` needs a `file`"),
        ("name: cifar10, split_seed: -1", "dataset.split_seed: is -1 (allowed: >= 0)"),
        ("name: cifar10, augment: {crop: 33}", "dataset.augment.crop: is 33 (allowed: <= 32)"),
        ("name: cifar10, augment: {flip: 1}", "dataset.augment.flip: is 1 (allowed: a boolean)"),
        ("name: cifar10, validation: tst", '"tst"; did you mean test? (allowed: test)'),
        ("root: data", "dataset.name: is missing"),
    ],
)
def test_a_problem_says_what_is_there_and_what_is_allowed(text: str, problem: str) -> None:
    document = parse_document(json.dumps({**SPEC, "dataset": parse(f"a: {{{text}}}")["a"]}), FILE)
    found = only_problem(lambda: validate(Experiment, document))
    assert found.startswith(f"{FILE}:1: ")
    assert problem in found


def test_what_was_laid_over_a_document_keeps_its_own_file_and_line() -> None:
    base = parse_document("a: {b: 1, c: 2}\nd: 1", Path("base"))
    over = parse_document("\n\na:\n  c: 3\n  e: {f: 4}", Path("over"))
    both = base.overlay(over)
    assert both.data == {"a": {"b": 1, "c": 3, "e": {"f": 4}}, "d": 1}
    assert both.problem(("a", "b"), "x") == "base:1: a.b: x"
    assert both.problem(("a", "c"), "x") == "over:4: a.c: x"
    assert both.problem(("a", "e", "f"), "x") == "over:5: a.e.f: x"
    assert base.data == {"a": {"b": 1, "c": 2}, "d": 1}


def test_key_paths_are_written_as_users_read_them() -> None:
    assert dotted(("teacher", "training", "epochs")) == "teacher.training.epochs"
    assert dotted(("seeds", 1)) == "seeds[1]"


MANY = 1000


@pytest.mark.parametrize(
    ("model", "changes", "first"),
    [
        (Cluster, {"setup": [1] * MANY}, "setup[0]: is 1 (allowed: a string)"),
        (Experiment, {"seeds": ["a"] * MANY}, 'seeds[0]: is "a" (allowed: an integer)'),
        (
            Experiment,
            {"training": {"schedule": {"milestones": [0] * MANY}, "epochs": 1, "batch_size": 2}},
            "training.schedule.milestones[0]: is 0 (allowed: >= 1)",
        ),
        (
            Experiment,
            {"dataset": {"name": "digits", "normalize": {"mean": [[]] * MANY, "std": [1.0]}}},
            "dataset.normalize.mean[0]: is [] (allowed: a number)",
        ),
        (Recipe, {f"key{n}": n for n in range(MANY)}, "key0: unknown key (allowed: recipe, "),
    ],
    ids=["setup", "seeds", "milestones", "mean", "keys"],
)
def test_of_a_thousand_problems_twenty_are_shown_and_the_others_counted(
    model: Any, changes: dict[str, Any], first: str
) -> None:
    base = {Experiment: SPEC, Recipe: {"recipe": "r", "title": "t"}, Cluster: {}}[model]
    document = parse_document(json.dumps({**base, **changes}), FILE)
    error = error_of(lambda: validate(model, document))
    assert error.problems[0].startswith(f"{FILE}:1: {first}")
    assert len(set(error.problems)) == 20
    assert error.lines == (*error.problems, "and 980 more")


@pytest.mark.parametrize("text", ["- !x 1", "- .inf", "- ? [a]\n  : b"])
def test_of_a_thousand_faults_of_a_file_twenty_are_shown_and_the_others_counted(text: str) -> None:
    error = error_of(lambda: parse("a:\n" + MANY * f"{text}\n"))
    assert len(set(error.problems)) == 20
    assert error.lines == (*error.problems, "and 980 more")


def test_twenty_problems_are_all_shown() -> None:
    assert len(problems(lambda: parse("a:\n" + 20 * "- .inf\n"))) == 20


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"title": 300_000 * "x"}, "title: has 300000 characters (allowed: at most 300)"),
        (
            {"student": {"arch": "vgg-" + 300_000 * "i" + "-like"}},
            'student.arch: is "vgg-iiiiiiiiiiiiiiiiiiiiiii ... iiiiiiiiiiiiiiiiiiiii-like" '
            "(allowed: vgg-like, vgg16, resnet18, resnet18-imagenet, resnet50-imagenet, mlp, vit, "
            "FILE.py:NAME)",
        ),
    ],
    ids=["title", "arch"],
)
def test_a_long_value_is_shortened_in_the_middle(changes: dict[str, Any], problem: str) -> None:
    document = parse_document(json.dumps({**SPEC, **changes}), FILE)
    assert only_problem(lambda: validate(Experiment, document)) == f"{FILE}:1: {problem}"


def test_a_long_key_leaves_a_line_of_bounded_length_with_place_and_reason() -> None:
    key = 100_000 * "k"
    document = Document({**SPEC, key: 1}, {(): Mark(FILE, 1), (key,): Mark(FILE, 7)})
    line = only_problem(lambda: validate(Experiment, document))
    assert len(line) == 1000
    assert line.startswith(f"{FILE}:7: kkkk")
    assert line.endswith("tracking, reference, matrix)")


def test_a_file_of_too_many_values_is_given_up_where_these_begin() -> None:
    """Whatever follows: this is no YAML any more."""
    text = "a:\n" + (MAX_NODES + 100) * "- 1\n" + "]"
    # The mapping and the list are values too.
    assert only_problem(lambda: parse(text)) == (
        f"{FILE}:{MAX_NODES}: too large or too deeply nested (allowed: {MAX_NODES} values with "
        f"aliases expanded, {MAX_DEPTH} levels)"
    )
