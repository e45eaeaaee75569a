"""Titles and names are shown as they are written, wherever they are shown."""

import subprocess
from pathlib import Path

import pytest

from dsdctl.report.formats.html.page import _in_a_shell
from dsdctl.report.formats.markdown import escaped
from faults.names import PAYLOADS, PLAIN, Shown, compare, prepare, show, try_refused

pytestmark = [pytest.mark.usefixtures("one_deterministic_thread"), pytest.mark.linux]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, one_deterministic_thread: None) -> Path:
    return prepare(tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="module")
def plain(store: Path) -> Shown:
    shown, wrong = show(store.parent / "plain", PLAIN, store)
    assert wrong == []
    return shown


@pytest.mark.parametrize("name", ["Markdown image", "HTML script"])
def test_a_payload_is_shown_as_a_plain_word_is(
    name: str, store: Path, plain: Shown, tmp_path: Path
) -> None:
    shown, wrong = show(tmp_path / "shown", PAYLOADS[name], store)
    assert wrong == []
    assert compare(PAYLOADS[name], shown, plain) == []


def test_an_escape_is_refused_in_titles_and_harmless_in_a_spec_s_name(
    store: Path, tmp_path: Path
) -> None:
    _, wrong = try_refused(tmp_path / "refused", "\x1b[2J", store)
    assert wrong == []


@pytest.mark.parametrize("text", ["label_noise.rate=0.2", "kd-dense-teacher", "a (b) 3.5 % - c"])
def test_markdown_of_plain_names_stays_readable(text: str) -> None:
    assert escaped(text) == text


@pytest.mark.parametrize("word", ["a b", "it's", "a\nb\\n'c", "\x1b[2J", "$(touch x)", "a\u202eb"])
def test_a_command_to_be_typed_means_the_word(word: str) -> None:
    line = ["bash", "-c", f"printf %s {_in_a_shell(word)}"]
    done = subprocess.run(line, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode() == word
    assert _in_a_shell(word).isprintable()
