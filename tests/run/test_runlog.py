"""The log of a run: complete, or it says that it is not."""

import resource
from pathlib import Path

import pytest

from dsdctl.run.log import log, log_to


def test_the_log_holds_every_line_with_its_time(tmp_path: Path) -> None:
    with log_to(tmp_path / "logs", verbose=False) as file:
        log.info("one")
        log.error("two")
    first, second = file.read_text().splitlines()
    assert first.endswith(" INFO one")
    assert second.endswith(" ERROR two")
    log.info("after the end")
    assert len(file.read_text().splitlines()) == 2


def test_a_log_that_can_grow_no_more_says_so_once_and_nothing_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with log_to(tmp_path, verbose=False) as file:
            for _ in range(30):
                log.info("a line of the log that is some sixty characters long, or nearly so")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert said == f"warning: {file}: the log ends here (File too large)\n"
