"""`dsdctl run --engine slurm`: what is submitted, and that a real Slurm runs it to equal bytes."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import planned, problems, write
from own_code import change_code, own_spec
from slurm_node import PROGRAMS, SlurmNode
from soak import Checkpoints, dsdctl, inflight, levels, result_bytes, spec, wait_until

from dsdctl.errors import WorkError
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.slurm.config import minutes_of, read_cluster
from dsdctl.slurm.jobs import batches, queue
from dsdctl.store.store import Store

pytestmark = pytest.mark.timeout(600)

CLUSTER = """\
partition: debug
account: lab
cpus: 2
time: 1-02:03:04
warning_seconds: 600
memory_gib: 0.5
setup: [export GREETING=hello]
"""

SLURM = ("run", "small.yaml", "--engine", "slurm", "--device", "cpu", "--checkpoint-every", "0")

WITH_SLURM = "--cluster: only with --engine slurm\n--dry-run: only with --engine slurm"

TAUGHT = ("[vanilla]", "[vanilla, kd-dense-teacher]")


# cluster.yaml


@pytest.mark.parametrize(
    ("time", "minutes"), [(90, 90), ("08:00:00", 480), ("1-02:03:04", 1563), ("0:01:59", 1)]
)
def test_a_time_is_in_minutes_or_as_slurm_writes_it(time: int | str, minutes: int) -> None:
    assert minutes_of(time) == minutes


def test_a_wrong_cluster_file_is_reported_line_by_line(tmp_path: Path) -> None:
    text = "partition: debug\ntime: 08:00\nacount: lab\ncpus: 0\n"
    file = write(tmp_path / "cluster.yaml", text)
    assert sorted(problems(lambda: read_cluster(file)), key=lambda line: line.split(":")[1]) == [
        f'{file}:2: time: is 08:00 (allowed: minutes, or "[days-]hours:minutes:seconds"; at least '
        "a minute)",
        f"{file}:3: acount: unknown key; did you mean account? (allowed: partition, account, qos, "
        "constraint, gres, cpus, memory_gib, time, warning_seconds, requeues, at_once, setup)",
        f"{file}:4: cpus: is 0 (allowed: >= 1)",
    ]


def test_a_warning_that_comes_before_the_work_is_refused(tmp_path: Path) -> None:
    """A job would be queued again and again, an epoch each time."""
    file = write(tmp_path / "cluster.yaml", "time: 2\n")
    assert problems(lambda: read_cluster(file)) == (
        f"{file}:1: `warning_seconds` is 120, so that no work is done before the warning "
        "(allowed: less than `time`, 120)",
    )


# What would be submitted


def test_a_dry_run_prints_the_scripts_and_writes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    spec(tmp_path, TAUGHT)
    write(tmp_path / "cluster.yaml", CLUSTER)
    done = dsdctl(tmp_path, *SLURM, "--seed", "0", "--dry-run")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("#!/bin/bash\n")[1:]
    for script in (first, second):
        for line in ("--partition=debug", "--account=lab", "--time=1563", "--mem=512M"):
            assert f"#SBATCH {line}\n" in script
        assert "#SBATCH --requeue\n" in script
        assert "\nexport GREETING=hello\n" in script
        assert "#SBATCH --cpus-per-task=2\n" in script
        assert re.search("^srun .* --cpus-per-task=2 ", script, re.M)
    assert "#SBATCH --array=0-1%2\n" in first
    assert "--dependency" not in first
    plan = make_plan([resolve(tmp_path / "small.yaml")])
    teacher = next(t for t in plan.trajectories.values() if t.students)
    assert f"#SBATCH --dependency=afterok:JOB_OF_{teacher.key[:8]}\n" in second
    assert f"--seed 0 --trajectory {teacher.key}\n" in first
    assert " --grace 600 " in first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cluster.yaml", "small.yaml"]


def test_students_wait_for_their_own_teacher_and_what_is_queued_is_left_out(
    tmp_path: Path,
) -> None:
    changes = {"recipes": ["vanilla", "kd-pruned-teacher"], "teacher.seed": "paired"}
    plan = planned(tmp_path, {**changes, "seeds": [0, 1]})
    progress = Progress(plan, Store(tmp_path / "store"))
    teachers = [t for t in plan.trajectories.values() if t.students]
    assert len(teachers) == 2
    ready, *waiting = batches(progress, {teachers[0].key})
    assert {t.key for t in ready.trajectories} == {
        t.key for t in plan.trajectories.values() if t.teacher is None
    } - {teachers[0].key}
    assert {batch.teacher: [t.key for t in batch.trajectories] for batch in waiting} == {
        teacher.key: list(teacher.students) for teacher in teachers
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--jobs", "2"), "--jobs: not with --engine slurm, where each trajectory is a job"),
        (("--fail-fast",), "--fail-fast: not with --engine slurm, where each trajectory is a job"),
        (
            ("--grace", "5"),
            "--grace: not with --engine slurm, where it is `warning_seconds` of cluster.yaml",
        ),
        (("--address", "head:1"), "--address: only with --engine ray"),
        (("--engine", "local"), "--cluster: only with --engine slurm"),
        (("--engine", "ray", "--dry-run"), WITH_SLURM),
        (("--cluster", "absent.yaml"), "absent.yaml: No such file or directory"),
        (("--threads", "3"), "--threads: is 3 (allowed: at most `cpus` of cluster.yaml, 2)"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_submitted_is_bad_input(
    options: tuple[str, ...], error: str, tmp_path: Path
) -> None:
    spec(tmp_path)
    write(tmp_path / "cluster.yaml", "cpus: 2\n")
    done = dsdctl(tmp_path, *SLURM, "--cluster", "cluster.yaml", *options)
    assert (done.returncode, done.stderr, done.stdout) == (2, f"{error}\n", "")
    assert not (tmp_path / "dsdctl-store").exists()


def test_without_submitit_one_line_says_so(tmp_path: Path) -> None:
    spec(tmp_path)
    write(tmp_path / "cluster.yaml", CLUSTER)
    program = "import sys; sys.modules['submitit'] = None; from dsdctl.cli.app import main; main()"
    line = [sys.executable, "-c", program, *SLURM]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--engine slurm: needs submitit (pip install 'dsdctl[slurm]')\n"
    assert not (tmp_path / "dsdctl-store").exists()


def test_a_queue_that_does_not_answer_is_one_line_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = write(
        tmp_path / "squeue", "#!/bin/sh\nprintf 'squeue: error: no\\nfatal\\n' >&2\nexit 1\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(WorkError) as raised:
        queue()
    assert str(raised.value) == "squeue: error: no fatal"


# What a job runs


def test_a_trajectory_that_no_spec_has_is_bad_input(tmp_path: Path) -> None:
    spec(tmp_path)
    done = dsdctl(tmp_path, "run", "small.yaml", "--trajectory", "xyz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "--trajectory: xyz: 0 trajectories of the given specs have a key that begins so (allowed: "
        "one of `dsdctl plan`)\n"
    )
    assert not (tmp_path / "dsdctl-store").exists()


@pytest.mark.long
def test_a_trajectory_alone_is_done_or_waits_for_its_teacher(tmp_path: Path) -> None:
    spec(tmp_path, TAUGHT)
    plan = make_plan([resolve(tmp_path / "small.yaml")])
    teacher = next(t.key for t in plan.trajectories.values() if t.students)
    student = next(t.key for t in plan.trajectories.values() if t.teacher)
    waits = dsdctl(tmp_path, "run", "small.yaml", "--trajectory", student)
    assert waits.returncode == 3
    assert waits.stdout.startswith(student[:8])
    assert waits.stdout.endswith(f"0/2 levels, waiting for level 0 of teacher {teacher[:8]}\n")
    done = dsdctl(tmp_path, "run", "small.yaml", "--trajectory", teacher[:8])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(teacher[:8])
    assert done.stdout.endswith("1/1 levels, done\n")
    assert len(levels(tmp_path / "dsdctl-store")) == 1


@pytest.mark.long
def test_what_jobs_have_finished_on_gpus_is_compared_where_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    spec(tmp_path)
    write(tmp_path / "cluster.yaml", CLUSTER)
    here = dsdctl(tmp_path, "run", "small.yaml")
    assert here.returncode == 0, here.stderr
    done = dsdctl(tmp_path, "run", "small.yaml", "--engine", "slurm", "--device", "cuda")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == here.stdout


@pytest.mark.long
def test_what_a_job_runs_loads_own_code_as_it_was_submitted_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lines of a dry run, which are those of jobs, on a node without the user's cache."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("DSDCTL_CACHE", str(tmp_path / "cache"))
    own_spec(tmp_path)
    write(tmp_path / "cluster.yaml", CLUSTER)
    local = dsdctl(tmp_path, "run", "small.yaml", "--store", "local")
    assert local.returncode == 0, local.stderr
    shown = dsdctl(tmp_path, *SLURM, "--dry-run").stdout
    (line,) = re.findall(r"^#   .*: \S+ -m dsdctl (run .*)$", shown, re.M)
    monkeypatch.setenv("DSDCTL_CACHE", str(tmp_path / "node"))
    change_code(tmp_path)
    refused = dsdctl(tmp_path, *shlex.split(line))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "or code that it runs has changed since the run was planned" in refused.stderr
    assert not levels(tmp_path / "dsdctl-store")
    own_spec(tmp_path)
    done = dsdctl(tmp_path, *shlex.split(line))
    assert done.returncode == 0, done.stderr
    assert result_bytes(tmp_path / "dsdctl-store") == result_bytes(tmp_path / "local")


# A real Slurm


@pytest.fixture(scope="module")
def running_slurm() -> Iterator[SlurmNode]:
    pytest.importorskip("submitit", reason="submitit is not installed")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"there is no Slurm here: {', '.join(missing)}")
    node = SlurmNode()
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
def slurm(running_slurm: SlurmNode, monkeypatch: pytest.MonkeyPatch) -> SlurmNode:
    monkeypatch.setenv("SLURM_CONF", running_slurm.environment["SLURM_CONF"])
    return running_slurm


def _written(folder: Path, *changes: tuple[str, str]) -> Path:
    """A folder with a spec, a cluster.yaml and the store that a local run leaves."""
    spec(folder, *changes)
    write(folder / "cluster.yaml", "partition: debug\n")
    done = dsdctl(folder, "run", "small.yaml", "--store", "local")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder / "dsdctl-store"


def _assert_as_local(folder: Path, notice: str = "") -> None:
    done = dsdctl(folder, *SLURM)
    assert (done.returncode, done.stderr) == (0, notice)
    assert done.stdout == (folder / "stdout").read_text()
    assert result_bytes(folder / "dsdctl-store") == result_bytes(folder / "local")


@pytest.mark.long
def test_jobs_are_submitted_once_and_end_as_a_local_run(slurm: SlurmNode, tmp_path: Path) -> None:
    _written(tmp_path, TAUGHT)
    done = dsdctl(tmp_path, *SLURM)
    assert done.returncode == 0, done.stderr
    assert "3 jobs submitted, 0 were in the queue already" in done.stderr
    numbers = [line.rpartition(" job ")[2] for line in done.stdout.splitlines()]
    again = dsdctl(tmp_path, *SLURM)
    assert again.stdout == ""
    assert "0 jobs submitted, 3 were in the queue already" in again.stderr
    status = dsdctl(tmp_path, "status", "small.yaml").stdout
    assert f"pending, job {numbers[-1]} (Dependency)" in status
    assert all(f"job {number}" in status for number in numbers)
    wait_until(lambda: not slurm.queue())
    assert "job" not in dsdctl(tmp_path, "status", "small.yaml").stdout
    _assert_as_local(tmp_path)
    spec(tmp_path, TAUGHT, ("levels: 1", "levels: 2"), name="longer")
    longer = dsdctl(tmp_path, "status", "longer.yaml").stdout
    assert "1/3 levels, ready" in longer or "2/3 levels, ready" in longer
    assert "job" not in longer  # those that ended did not fail, and none was submitted for this


@pytest.mark.long
def test_jobs_with_own_code_end_as_a_local_run(slurm: SlurmNode, tmp_path: Path) -> None:
    own_spec(tmp_path)
    write(tmp_path / "cluster.yaml", "partition: debug\n")
    local = dsdctl(tmp_path, "run", "small.yaml", "--store", "local")
    (tmp_path / "stdout").write_text(local.stdout)
    assert "1 jobs submitted" in dsdctl(tmp_path, *SLURM).stderr
    wait_until(lambda: not slurm.queue())
    _assert_as_local(tmp_path, "runs code from nets.py\n")


@pytest.mark.long
def test_a_job_that_is_preempted_or_warned_goes_on_from_its_checkpoint(
    slurm: SlurmNode, tmp_path: Path
) -> None:
    epochs = 500  # for longer than Slurm takes to preempt, which are seconds whatever the machine
    store = _written(tmp_path, ("epochs: 3", f"epochs: {epochs}"), ("levels: 1", "levels: 0"))
    checkpoints = Checkpoints(store)
    (number,) = dsdctl(tmp_path, *SLURM).stdout.split()[-1:]
    wait_until(lambda: inflight(store))
    slurm.command("sbatch", "--partition=urgent", "--ntasks=2", "--wrap=true", "--output=/dev/null")
    wait_until(lambda: _restarts(slurm, number) == 1)
    trained = _epochs(store)
    wait_until(lambda: _epochs(store) > trained)
    # What Slurm does before the time is over: docs/running.md says how that was shown.
    slurm.command("scancel", "--signal=USR2", number)
    wait_until(lambda: _restarts(slurm, number) == 2)
    wait_until(lambda: not slurm.queue())
    _assert_as_local(tmp_path)
    # One more when it was warned, and maybe one that was being written when it was killed.
    (taken,) = checkpoints.taken().values()
    assert epochs < taken <= epochs + 2


def _restarts(slurm: SlurmNode, number: str) -> int:
    """How often Slurm queued a job again."""
    shown = slurm.command("scontrol", "show", "job", number)
    return int(shown.partition("Restarts=")[2].split()[0])


def _epochs(store: Path) -> int:
    """Epochs in the checkpoint of the only level in flight."""
    for file in inflight(store):
        checkpoint = Store(store).checkpoints.load(file.name)
        return 0 if checkpoint is None else len(checkpoint.epochs)
    return 0


@pytest.mark.long
def test_a_job_that_fails_is_shown_and_submitted_again(slurm: SlurmNode, tmp_path: Path) -> None:
    spec(tmp_path, TAUGHT)
    write(tmp_path / "cluster.yaml", "partition: debug\nsetup: [exit 7]\n")
    done = dsdctl(tmp_path, *SLURM)
    assert "3 jobs submitted" in done.stderr
    wait_until(lambda: not slurm.queue())
    status = dsdctl(tmp_path, "status", "small.yaml").stdout.splitlines()
    assert [line.partition(" levels, ")[2].partition(",")[0] for line in status] == ["failed"] * 3
    assert "3 jobs submitted" in dsdctl(tmp_path, *SLURM).stderr
    wait_until(lambda: not slurm.queue())
