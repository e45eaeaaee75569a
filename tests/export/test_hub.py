"""`dsdctl export --push` with the Hub's own client, against a stand-in for the Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from tiny import TINY

pytest.importorskip("huggingface_hub", reason="dsdctl[hub] is not installed")


def command(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dsdctl", *arguments],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def exported(folder: Path, environment: dict[str, str], *options: str) -> tuple[int, str, str]:
    line = ("export", "tiny.yaml", "--recipe", "vanilla", "--no-latency", "--output", "out")
    return command(folder, environment, *line, *options)


@pytest.mark.parametrize(
    ("name", "changes", "role", "said"),
    [
        ("somebody/net", {"HF_TOKEN": "hf_wrong"}, "write", ": somebody/net: "),
        ("somebody/net", {}, "read", ": somebody/net: the token of somebody may only read"),
        ("some body/net", {}, "write", ": some body/net: Repo id must use alphanumeric chars"),
        ("somebody/net", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "write", ": somebody/net: "),
    ],
    ids=["wrong token", "may only read", "no name", "no answer"],
)
def test_who_may_not_push_is_told_before_anything_is_computed(
    tmp_path: Path, name: str, changes: dict[str, str], role: str, said: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    with Hub(tmp_path / "home", role=role) as hub:
        code, out, err = exported(tmp_path, hub.environment | changes, "--push", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"--push{said}") and err.count("\n") == 1
    assert not (tmp_path / "out").exists() and not hub.files


def pushed(folder: Path, environment: dict[str, str], private: bool) -> tuple[int, str, str]:
    """The upload alone, of files that take no minute to export."""
    code = f"""
from pathlib import Path
from dsdctl.export.hub import check_hub, push
check_hub("somebody/net")
print(push(Path("out"), "somebody/net", private={private}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("private", [True, False])
def test_the_hub_has_the_files_of_the_folder(tmp_path: Path, private: bool) -> None:
    files = {"README.md": b"# A network", "model.safetensors": bytes(range(256)) * 400}
    (tmp_path / "out").mkdir()
    for name, content in files.items():
        (tmp_path / "out" / name).write_bytes(content)
    with Hub(tmp_path / "home") as hub:
        code, out, err = pushed(tmp_path, hub.environment, private)
    assert (code, out) == (0, f"{hub.environment['HF_ENDPOINT']}/somebody/net\n"), err
    assert hub.private == {"somebody/net": private}
    assert hub.files == {"somebody/net": files}


def test_what_the_hub_does_not_take_is_kept_and_how_to_send_it_said(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("# A network")
    with Hub(tmp_path / "home", closed=True) as hub:
        code, _, err = pushed(tmp_path, hub.environment, False)
    assert code == 1
    assert "WorkError: --push: somebody/net: " in err
    assert "`hf upload somebody/net out` sends what is in out" in err


@pytest.mark.long
def test_an_export_is_pushed(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert command(tmp_path, {}, "run", "tiny.yaml", "--recipe", "vanilla")[0] == 0
    with Hub(tmp_path / "home") as hub:
        code, out, err = exported(tmp_path, hub.environment, "--push", "somebody/net")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{hub.environment['HF_ENDPOINT']}/somebody/net"
    kept = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert {"README.md", "model.safetensors", "compact.safetensors"} <= kept.keys()
    assert hub.files == {"somebody/net": kept}
