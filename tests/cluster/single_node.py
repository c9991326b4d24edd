"""A real SLURM of one node on this machine, from Debian's packages, in a folder of its own.

Its daemons run in the foreground as children of the test, and end with it, whatever ends the test. A test
that is killed leaves no daemon, but the jobs it had run to their end.
"""

import ctypes
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
_PR_SET_PDEATHSIG = 1
_NODE = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=1
PropagateResourceLimits=NONE
KillWait=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=debug Nodes=n1 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Say why there can be no SLURM here, "" where there can."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge, as root"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started by root alone"


def waited(until: Callable[[], object], seconds: float = 60.0) -> object:
    """Return what `until` gives once it is true; AssertionError where it is not in time."""
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, f"nothing within {seconds:.0f} s"
        time.sleep(0.2)
    return found


class Slurm:
    """A cluster that runs; `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, *command: str) -> str:
        """Return what one of SLURM's commands prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Return the state of each job that waits or runs, by its name, such as 1_0."""
        return dict(line.split() for line in self("squeue", "-h", "-r", "-o", "%i %T").splitlines())

    def job(self, name: str) -> dict[str, str]:
        """Return what SLURM knows of a job, also for a while after its end."""
        return dict(
            part.split("=", 1) for part in self("scontrol", "show", "job", name).split() if "=" in part
        )


@contextmanager
def started() -> Iterator[Slurm]:
    """Start a cluster of one node with four processors and two GPUs that are made up; end it."""
    folder = Path(mkdtemp(prefix="slurm-"))  # short: the path of a socket has at most 107 letters
    folder.chmod(0o755)
    slurm = Slurm(folder)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(
        _NODE.format(host=host, folder=folder, controller=free_port(), node=free_port())
    )
    for number in range(2):  # SLURM counts a GPU by its device file alone
        os.mknod(folder / f"nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/nvidia[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    munged = ["munged", "--foreground", "--force", "--key-file", f"{folder}/munge.key"]
    munged += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command, ready in (
            ([*munged, f"--socket={folder}/munge.socket"], lambda: (folder / "munge.socket").exists()),
            (["slurmctld", "-D", "-c"], lambda: _answers(slurm, "scontrol", "ping")),
            (["slurmd", "-D", "-c", "-N", "n1"], lambda: "idle" in slurm("sinfo", "-h", "-o", "%t")),
        ):
            log = folder / f"{command[0]}.log"
            with log.open("wb") as file:
                daemon = subprocess.Popen(
                    command, env=slurm.environment, stdout=file, stderr=file, preexec_fn=end_with_parent
                )
            daemons.append(daemon)
            try:
                waited(ready, 30)
            except AssertionError as error:
                raise AssertionError(f"{command[0]}: {log.read_text()}") from error
        yield slurm
    finally:
        if len(daemons) == 3:
            _end_jobs(slurm)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder)


def _end_jobs(slurm: Slurm) -> None:
    """Kill all jobs, with what they started, and wait until their supervisors have gone."""
    with suppress(subprocess.SubprocessError, AssertionError):
        if jobs := slurm.jobs():
            for how in (["--full", "--signal=KILL"], []):
                subprocess.run(["scancel", *how, *jobs], env=slurm.environment, timeout=30)
            waited(lambda: not slurm.jobs(), 30)


def _answers(slurm: Slurm, *command: str) -> bool:
    try:
        return "UP" in slurm(*command)
    except subprocess.CalledProcessError:
        return False


def end_with_parent() -> None:
    """Let the kernel end this process, before it becomes another program, when the test's process dies.

    Ctrl-C reaches it also where the tests are a shell's background job, which would ignore that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
