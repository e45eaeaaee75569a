"""`dsdctl validate` as a user meets it, and what it does not import."""

import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT, TABLE1, spec_data, write
from typer.testing import CliRunner, Result

import dsdctl
from dsdctl.cli.app import app
from dsdctl.keys import NUMERICS_VERSION, SCHEMA_VERSION


def validate(*files: Path) -> Result:
    return CliRunner().invoke(app, ["validate", *map(str, files)])


def test_good_specs_are_named_with_their_rows_on_standard_output(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", spec_data())
    matrix = {"student.depth": [1, 2]}
    two = write(tmp_path / "two.yaml", spec_data({"matrix": matrix}))
    result = validate(one, two, TABLE1)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{one}: ok, 1 row",
        f"{two}: ok, 2 rows",
        f"{TABLE1}: ok, 4 rows",
    ]
    assert result.stderr == ""


def test_all_problems_of_all_specs_go_to_standard_error(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", spec_data({"training.epochs": "4", "student.dept": 1}))
    two = write(tmp_path / "two.yaml", spec_data({"recipes": ["nonesuch"]}))
    missing = tmp_path / "missing.yaml"
    good = write(tmp_path / "good.yaml", spec_data())
    result = validate(one, two, missing, good)
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(one), str(one), str(two), str(missing)]
    assert 'training.epochs: is "4" (allowed: an integer)' in result.stderr
    assert "student.dept: unknown key; did you mean depth?" in result.stderr


def test_a_problem_is_one_line_however_long_and_in_its_own_words(tmp_path: Path) -> None:
    file = write(tmp_path / "spec.yaml", spec_data({"student.arch": "[bold]vgg[/bold]" + 50 * "x"}))
    result = validate(file)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "[bold]vgg[/bold]" in line
    archs = "vgg-like, resnet18, resnet18-imagenet, resnet50-imagenet, mlp, vit, FILE.py:NAME"
    assert line.endswith(f"(allowed: {archs})")


def test_a_problem_of_two_specs_recipe_is_reported_once(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "recipe: mine\ntitle: x\nselect: last\n")
    files = [
        write(tmp_path / f"{name}.yaml", spec_data({"recipes": ["mine"]}))
        for name in ("one", "two")
    ]
    assert len(validate(*files).stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_a_specs_warning_is_one_line_on_standard_error(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A run ends before its levels: no key begins so.
    options = ["--trajectory", "zz"] if command == "run" else []
    warned = write(tmp_path / "warned.yaml", spec_data({"warning": "takes [red]a year[/red]"}))
    plain = write(tmp_path / "plain.yaml", spec_data({"experiment": "plain"}))
    result = CliRunner().invoke(app, [command, str(warned), str(plain), *options])
    assert result.stderr.splitlines()[0] == "warning: small: takes [red]a year[/red]"
    assert result.stderr.count("warning: ") == 1
    assert "a year" not in result.stdout


def test_of_many_bad_specs_only_the_first_are_checked(tmp_path: Path) -> None:
    many = {f"key{n}": n for n in range(30)}
    bad = write(tmp_path / "bad.yaml", {**spec_data(), **many})
    missing = [tmp_path / f"{n}.yaml" for n in range(500)]
    lines = validate(bad, *missing).stderr.splitlines()
    assert len(lines) == 20 + 1
    assert lines[-1] == "and 10 more; the rest was not checked"
    lines = validate(*missing).stderr.splitlines()
    assert len(lines) == 20 + 1
    assert lines[-1] == "the rest was not checked"


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "spec.yaml", spec_data())
    assert validate(file).exit_code == 0
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "option",
    [
        ("--store", ""),
        ("--memory", "inf"),
        ("--memory", "nan"),
        ("--checkpoint-every", "nan"),
        ("--jobs", "0"),
    ],
)
def test_an_option_that_means_nothing_is_refused_and_nothing_written(
    option: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "spec.yaml", spec_data())
    done = CliRunner().invoke(app, ["run", str(file), *option])
    assert done.exit_code == 2
    assert f"Invalid value for '{option[0]}'" in done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_spec_must_be_given() -> None:
    result = validate()
    assert result.exit_code == 2
    assert "SPEC" in result.stderr


def test_the_version_is_printed_with_those_of_what_is_stored() -> None:
    result = CliRunner().invoke(app, ["--version"])
    versions = f"(schema {SCHEMA_VERSION}, numerics {NUMERICS_VERSION})"
    assert result.stdout == f"dsdctl {dsdctl.__version__} {versions}\n"
    assert result.exit_code == 0


@pytest.mark.parametrize("command", [[], ["run"], ["store"], ["store", "gc"]], ids=str)
def test_a_short_option_asks_for_help_everywhere(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*command, option]) for option in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout


HEAVY = ["torch", "torchvision", "fvcore", "wandb", "sklearn", "ray", "submitit"]


def heavy_imports_of(statements: str) -> str:
    """Which of the heavy packages a fresh interpreter has imported after `statements`."""
    program = f"{statements}\nimport sys\nprint('heavy:', [n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["validate", "-h"],
        ["rehearse", "--help"],
        ["validate", "specs/table1.yaml"],
        ["recipes"],
    ],
    ids=" ".join,
)
def test_a_light_command_does_not_import_torch(arguments: list[str]) -> None:
    statements = (
        "from dsdctl.cli.app import app\n"
        f"assert app({arguments}, standalone_mode=False) in (None, 0)"
    )
    assert heavy_imports_of(statements) == "heavy: []"


def test_a_plan_is_made_without_torch() -> None:
    modules = "cost.macs cost.forecast plan.plan plan.progress plan.resolve run.rehearsal"
    statements = "\n".join(f"import dsdctl.{name}" for name in modules.split())
    statements += (
        "\nfrom pathlib import Path\n"
        "dsdctl.plan.plan.make_plan([dsdctl.plan.resolve.resolve(Path('specs/table1.yaml'))])"
    )
    assert heavy_imports_of(statements) == "heavy: []"


def test_the_check_for_heavy_imports_sees_them() -> None:
    assert heavy_imports_of("import sys\nsys.modules['torch'] = sys") == "heavy: ['torch']"
