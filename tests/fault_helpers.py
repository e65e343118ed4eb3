"""What the tests of faults share: a small module, a logger, fits to compare, and ``train.py``."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader
from training.utils.data_utils import Frame, Object, VideoDatapoint, collate_fn

from core.config import VisualizationsConfig
from core.trainer import VisualizationsMixin

# SwanLab looks at the machine, its packages and git for seconds whenever a run starts.
WITHOUT_PROBES = {
    f"SWANLAB_PROBE_{name}": "false" for name in ("HARDWARE", "REQUIREMENTS", "GIT", "MONITOR")
}
# Far more than anything takes, and less than pytest's own limit.
TIME_LIMIT_S = 240

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE, NUM_FRAMES = 16, 2


def visualizations(**fields):
    """Every event is drawn: there is room for all, and no time is saved."""
    defaults = {
        "enabled": True,
        "every_n_steps": 1,
        "max_frames": 1,
        "panel_size": 64,
        "max_pending": 100,
        "max_overhead": 1.0,
    }
    return VisualizationsConfig(**{**defaults, **fields})


class RememberingLogger(Logger):
    """Takes images and keeps them; `fault(key, step)` is called first and may raise or wait.

    `duplicates` are the (key, step) that came again, which a dashboard would have dropped: to
    raise here would be one more fault of the logger, which training survives.
    """

    name, version = "remembering", "0"

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault
        self.images = {}
        self.scalars = {}
        self.duplicates = []
        self._seen = set()

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.scalars.update(metrics)
        for key in metrics:
            if key != "epoch":  # Lightning's own, with everything that it logs
                self._remember(key, step)

    def log_image(self, key, images, step=None, caption=None):
        if self.fault is not None:
            self.fault(key, step)
        self._remember(key, step)
        self.images[key, step] = images

    def _remember(self, key, step):
        if (key, step) in self._seen:
            self.duplicates.append((key, step))
        self._seen.add((key, step))

    def steps(self, stage="train"):
        return sorted(step for key, step in self.images if key.startswith(f"{stage}/composites"))


class SketchModule(VisualizationsMixin, pl.LightningModule):
    """One convolution whose outputs look like SAM 2's and which draws from every generator.

    Args:
        visualizations: Section of the configuration.
        spoil: ``spoil(batch, outs, step)`` returns what the hook gets instead.
    """

    def __init__(self, visualizations, spoil=None):
        super().__init__()
        self.config = SimpleNamespace(visualizations=visualizations)
        self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.rng = np.random.default_rng(0)
        self.spoil = spoil

    def step(self, batch, batch_idx, stage):
        rows = batch.obj_to_frame_idx[0, :, 1]
        outs, loss = [], 0.0
        for t, masks in enumerate(batch.masks):
            noise = torch.randn(()) + random.random() + np.random.rand() + self.rng.random()
            logits = self.conv(batch.img_batch[t])[rows] + float(noise)
            mask_inputs = masks[:, None] if t == 0 else None
            outs.append(
                {
                    "pred_masks_high_res": logits,
                    "point_inputs": None,
                    "mask_inputs": mask_inputs,
                }
            )
            loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], masks.float()
            )
        shown = (batch, outs)
        if self.spoil is not None and stage == "train":
            shown = self.spoil(batch, [dict(out) for out in outs], self.global_step)
        self.maybe_log_visualizations(*shown, batch_idx, stage)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, batch_idx, "train")

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch, batch_idx, "val"), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def clips(num_clips, batch_size=2):
    """A loader of clips with one to three objects each."""
    generator = torch.Generator().manual_seed(0)
    videos = []
    for index in range(num_clips):
        frames = []
        for t in range(NUM_FRAMES):
            objects = []
            for k in range(1 + index % 3):
                mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
                mask[4 * k + t : 4 * k + t + 4, 2 : 6 + index] = True
                objects.append(Object(k, t, mask))
            image = torch.randn(3, SIZE, SIZE, generator=generator)
            frames.append(Frame(image, objects))
        videos.append(VideoDatapoint(frames, video_id=index, size=(SIZE, SIZE)))
    return DataLoader(
        videos, batch_size=batch_size, collate_fn=lambda batch: collate_fn(batch, "all")
    )


class KeepLosses(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].detach().clone())


@dataclass
class Training:
    """What a training leaves behind."""

    module: pl.LightningModule
    trainer: pl.Trainer
    losses: list
    random_states: list


def random_states(rng):
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        [np.asarray(part).tolist() for part in np.random.get_state()],
        rng.bit_generator.state,
    ]


def make_trainer(tmp_path, logger, callbacks=(), **trainer):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    return pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{**options, **trainer},
    )


def fit(tmp_path, section, logger=False, *, spoil=None, steps=6, callbacks=(), **trainer):
    """Train the small module for `steps` steps with a validation in the middle and at the end."""
    pl.seed_everything(0, verbose=False)
    module = SketchModule(section, spoil)
    losses = KeepLosses()
    trainer.setdefault("val_check_interval", 3)
    trainer = make_trainer(tmp_path, logger, [losses, *callbacks], **trainer)
    trainer.fit(module, clips(2 * steps), clips(2, batch_size=1))
    return Training(module, trainer, losses.losses, random_states(module.rng))


def assert_same_training(one, other):
    """Weights, losses and random states are the same bit for bit, and nothing was logged twice."""
    for training in (one, other):
        assert_nothing_logged_twice(*training.trainer.loggers)
    assert len(one.losses) == len(other.losses) > 0
    assert all(torch.equal(a, b) for a, b in zip(one.losses, other.losses, strict=True))
    assert_same_weights(one.module.state_dict(), other.module.state_dict())
    assert one.random_states == other.random_states


def assert_nothing_logged_twice(*loggers):
    for logger in loggers:
        assert getattr(logger, "duplicates", []) == []


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.01)


def our_warnings(caplog):
    return [
        record
        for record in caplog.records
        if record.name.startswith("core.") and record.levelname == "WARNING"
    ]


def png_files(log_dir):
    """The pictures that SwanLab wrote, over all runs below a folder."""
    return sorted(Path(log_dir).glob("run-*/media/image/*.png"))


TINY_RUN = (
    "model.image_size=64",
    "data.num_frames=2",
    "data.batch_size=1",
    "data.synthetic.num_train_clips=8",
    "data.synthetic.num_val_clips=2",
    "data.synthetic.max_objects=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.validate_first=false",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "visualizations.enabled=true",
    "visualizations.every_n_steps=1",
    "visualizations.max_frames=1",
    "visualizations.panel_size=64",
    "visualizations.max_pending=100",
    "visualizations.max_overhead=1",
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
