"""``train.py`` as its users start it: in this process, and in processes of their own."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
# SwanLab looks at the machine, its packages and git for seconds whenever a run starts.
WITHOUT_PROBES = {
    f"SWANLAB_PROBE_{name}": "false" for name in ("HARDWARE", "REQUIREMENTS", "GIT", "MONITOR")
}
# Far more than anything takes, and less than pytest's own limit.
TIME_LIMIT_S = 240

# The smallest model and clips, and room and time for every picture.
SMALLEST = (
    "model.image_size=64",
    "data.num_frames=2",
    "data.batch_size=1",
    "data.synthetic.max_objects=2",
    "trainer.accelerator=cpu",
    "trainer.validate_first=false",
    "trainer.enable_progress_bar=false",
    "visualizations.max_pending=100",
    "visualizations.max_overhead=1",
)
# One step and one validation; nothing is drawn.
TINY = (
    *SMALLEST,
    "data.val_batch_size=1",
    "data.synthetic.num_val_clips=1",
    "trainer.max_steps=1",
    "trainer.val_check_interval=1",
)
# Four steps with a picture of each and two validations.
TINY_RUN = (
    *SMALLEST,
    "data.synthetic.num_train_clips=8",
    "data.synthetic.num_val_clips=2",
    "trainer.devices=1",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "visualizations.enabled=true",
    "visualizations.every_n_steps=1",
    "visualizations.max_frames=1",
    "visualizations.panel_size=64",
)
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
# One task on one node.
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "finetune",
    "SLURM_NTASKS": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


def run_here(monkeypatch, folder, *arguments) -> str:
    """Run train.py in this process; return what it exits with, empty at success."""
    files = [f"swanlab.log_dir={folder / 'swanlog'}"]
    if not any(argument.startswith("hydra.") for argument in arguments):
        files.append(f"hydra.run.dir={folder / 'run'}")
    # What ends a process whose SwanLab hangs would end the tests.
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("SwanLab did not finish"))
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *QUIET, *files])
    try:
        runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
    except SystemExit as end:
        return str(end.code or "")
    return ""


def run_apart(*arguments, before: str = "") -> subprocess.CompletedProcess:
    """Run train.py in a process of its own, after some lines of Python."""
    code = f"{before}\nimport runpy\nrunpy.run_path('train.py', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )


started = []  # every TrainProcess of the running test


class TrainProcess:
    """``train.py`` in a process of its own, through ``tests/train_driver.py``.

    Args:
        tmp_path: Where it runs; the run directory is ``run``, SwanLab's files are in ``swanlog``.
        *overrides: Hydra overrides behind those of `TINY_RUN`.
        env: Environment variables of its own.
        driver: Options of ``tests/train_driver.py``.
        launcher: What Python runs it with: ``-m`` and a module with its arguments.
    """

    def __init__(self, tmp_path, *overrides, env=None, driver=(), launcher=()):
        self.run_dir, self.log_dir = tmp_path / "run", tmp_path / "swanlog"
        tmp_path.mkdir(exist_ok=True, parents=True)
        self._lines, self._seen = [], threading.Condition()
        own = (f"hydra.run.dir={self.run_dir}", f"swanlab.log_dir={self.log_dir}")
        self.process = subprocess.Popen(
            [
                sys.executable,
                *launcher,
                str(REPOSITORY / "tests" / "train_driver.py"),
                *TINY_RUN,
                *own,
                *overrides,
            ],
            cwd=tmp_path,
            env={
                **clean_environment(tmp_path),
                "TRAIN_DRIVER": " ".join(driver),
                **(env or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # with the ranks that it starts
        )
        started.append(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._seen:
                self._lines.append(line)
                self._seen.notify_all()
        with self._seen:
            self._seen.notify_all()

    @property
    def output(self):
        return "".join(self._lines)

    def wait_for(self, text, count=1, timeout_s=TIME_LIMIT_S):
        """Wait until `count` lines hold `text`."""

        def seen():
            return sum(text in line for line in self._lines) >= count

        with self._seen:
            self._seen.wait_for(lambda: seen() or self.process.poll() is not None, timeout_s)
        assert seen(), self.output

    def send(self, signum):
        self.process.send_signal(signum)

    def end(self, timeout_s=TIME_LIMIT_S):
        """Wait for the end and return the exit status; a process that does not end is killed."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler tells where it hangs
            self.process.wait(10)
            raise AssertionError(f"train.py did not end\n{self.output}") from None
        self._reader.join(10)
        return status

    def kill(self):
        """End it and every rank that it started, whatever they are doing."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def num_taken(self):
        return self.output.count("picture taken")

    def last_weights(self):
        checkpoint = torch.load(self.run_dir / "checkpoints" / "last.ckpt", weights_only=False)
        return checkpoint["state_dict"]


def png_files(log_dir):
    """The pictures that SwanLab wrote, over all runs below a folder."""
    return sorted(Path(log_dir).glob("run-*/media/image/*.png"))


def path_with_scontrol(tmp_path):
    """Make a ``scontrol`` that takes every request and return the ``PATH`` that finds it."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\nexit 0\n")
    scontrol.chmod(0o755)
    return f"{scontrol.parent}:{os.environ['PATH']}"


def wait_until_requeued(train):
    """Wait for the requeue and for pictures after it: only the scheduler ends training."""
    train.wait_for("Requeued SLURM job")
    train.wait_for("picture taken", train.num_taken() + 2)


def clean_environment(home):
    """The environment without clusters, API keys and threads that fight for two cores."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SWANLAB_", "PL_", "LOCAL_RANK", "NODE_RANK"))
    }
    env |= {**WITHOUT_PROBES, "OMP_NUM_THREADS": "1", "HOME": str(home), "PYTHONFAULTHANDLER": "1"}
    # Nothing leaves the machine, whatever a test gets wrong.
    return env | {"SWANLAB_API_HOST": "http://127.0.0.1:9", "MPLCONFIGDIR": str(mpl_cache())}


def mpl_cache():
    """One font cache for all processes: making it takes seconds."""
    import matplotlib

    return matplotlib.get_cachedir()
