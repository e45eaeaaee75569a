"""A real Slurm of one node on this machine, started and ended by hand, of the current user."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from soak import wait_until

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is queued again waits until its old credential has expired, by default two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2 State=UP
"""


class SlurmNode:
    """munged, slurmctld and slurmd; `environment` is what Slurm's commands need to find them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munged insists
        self.environment = {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf"}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start everything, and wait for the node to be idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        settings = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": self.folder}
        ports = {"control": _free_port(), "daemon": _free_port()}
        (self.folder / "slurm.conf").write_text(CONF.format(**settings, **ports))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o600)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
        munge = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket"]
        self._spawn(*munge, f"--key-file={key}", *files)
        wait_until(lambda: (self.folder / "munge.socket").exists())
        self._spawn("slurmctld", "-D")
        self._spawn("slurmd", "-D")
        wait_until(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T"))

    def command(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def queue(self) -> list[str]:
        """State and reason of each job that waits or runs."""
        return self.command("squeue", "-h", "--array", "-o", "%T %r").splitlines()

    def close(self) -> None:
        self.command("scancel", "--full", "--signal=KILL", "--user", getpass.getuser())
        self.command("scancel", "--user", getpass.getuser())
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, *line: str) -> None:
        with (self.folder / f"{line[0]}.out").open("wb") as output:
            self._processes.append(
                subprocess.Popen(line, env=self.environment, stdout=output, stderr=output)
            )


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])
