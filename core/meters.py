"""How fast training is, what it waits for and what it needs: numbers beside the losses."""

import logging
import math
import time
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from .config import num_cores
from .memory import kind_of_memory, peak_memory
from .progress import seconds_left

log = logging.getLogger(__name__)

STEPS_TO_JUDGE = 100
MAX_DATA_WAIT = 0.2  # share of these steps


@dataclass
class Pace:
    """What some optimizer steps took.

    Attributes:
        steps: How many there were.
        clips: Clips of all ranks in them.
        seconds: Wall time, validation aside.
        waited_s: The part of it in which the next batch was waited for.
    """

    steps: int = 0
    clips: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0

    def add(self, other: "Pace") -> None:
        """Count other steps too."""
        self.steps += other.steps
        self.clips += other.clips
        self.seconds += other.seconds
        self.waited_s += other.waited_s

    @property
    def data_wait(self) -> float:
        """The share of the time in which the next batch was waited for."""
        return self.waited_s / self.seconds if self.seconds > 0 else 0.0

    @property
    def step_s(self) -> float:
        """Mean seconds per step."""
        return self.seconds / max(1, self.steps)

    @property
    def clips_per_s(self) -> float:
        """Clips of all ranks per second."""
        return self.clips / self.seconds if self.seconds > 0 else 0.0


class Meters(Callback):
    """Logs what the steps since the row before took, on the steps that reach the loggers.

    ``train/step_s``, ``train/data_wait``, ``train/clips_per_s``, ``train/peak_memory_gib`` (see
    `peak_memory`) and ``train/time_left_s``. The times are rank zero's. The device is never waited
    for: steps follow each other no faster than it works, so that the mean over them is right. The
    first step of a run, in which workers and kernels start, is left out.

    Attributes:
        whole: Of all steps of the run but the first.
    """

    def __init__(self) -> None:
        self.whole = Pace()
        self._batches = Pace()  # of the step that is not done yet
        self._row, self._judged = Pace(), Pace()  # since the last row, since the last verdict
        self._since: Optional[float] = None  # the end of the last batch, None before there is one
        self._interrupted = False
        self._waited_before = 0.0
        self._step = 0
        self._start, self._total = (0, 0.0), 0
        self._warned = False

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Start to reckon the time left."""
        steps = trainer.estimated_stepping_batches
        self._total = 0 if math.isinf(steps) else int(steps)
        self._step = trainer.global_step
        self._start = (trainer.global_step, time.monotonic())

    def on_validation_start(self, *args: Any) -> None:
        """Leave the validation out of the time."""
        self._interrupted = True

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """After a validation the time goes on where the next batch was asked for."""
        if self._interrupted and self._since is not None:
            self._since = getattr(trainer.train_dataloader, "asked_at", perf_counter())
        self._interrupted = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        *args: Any,
    ) -> None:
        """Count a batch, and log where a step is done that reaches the loggers."""
        now, waited_s = perf_counter(), getattr(trainer.train_dataloader, "waited_s", 0.0)
        if self._since is not None:
            self._batches.add(
                Pace(
                    clips=batch.img_batch.shape[1] * trainer.world_size,
                    seconds=now - self._since,
                    waited_s=waited_s - self._waited_before,
                )
            )
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._count_step(trainer, pl_module)
            self._since = now
        if self._since is not None:
            self._since, self._waited_before = now, waited_s

    def _count_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._since is None:
            return
        self._batches.steps = 1
        for pace in (self.whole, self._row, self._judged):
            pace.add(self._batches)
        self._batches = Pace()
        # Lightning's connectors set this attribute, which its Trainer does not declare
        every_n_steps = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every_n_steps == 0 or trainer.should_stop:
            self._log_row(trainer, pl_module)
        if self._judged.steps >= STEPS_TO_JUDGE:
            self._warn_of_waiting(trainer)
            self._judged = Pace()

    def _log_row(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        row = {
            "step_s": self._row.step_s,
            "data_wait": self._row.data_wait,
            "clips_per_s": self._row.clips_per_s,
            "peak_memory_gib": peak_memory(trainer.strategy.root_device),
            "time_left_s": seconds_left(self._start, trainer.global_step, self._total),
        }
        self._row = Pace()
        # Tensors on the CPU: for others Lightning would have to wait for the device.
        pl_module.log_dict(
            {
                f"train/{name}": torch.tensor(value)
                for name, value in row.items()
                if value is not None
            }
        )

    def _warn_of_waiting(self, trainer: pl.Trainer) -> None:
        if self._warned or not trainer.is_global_zero or self._judged.data_wait <= MAX_DATA_WAIT:
            return
        self._warned = True
        num_workers = getattr(trainer.train_dataloader, "num_workers", 0)
        log.warning(
            "training spent %.0f %% of the last %d steps waiting for clips: %s",
            100 * self._judged.data_wait,
            self._judged.steps,
            _what_helps(num_workers, num_cores()),
        )

    def said_at_the_end(self, trainer: pl.Trainer) -> list[tuple[str, str]]:
        """Return what the last lines of a run say of it: names, and what is said of each."""
        rows, pace = [], self.whole
        if pace.steps:
            said = f"{pace.step_s:.3g} s per step, {pace.clips_per_s:.3g} clips per s, "
            said += f"{100 * pace.data_wait:.0f} % of the time waiting for clips"
            rows.append(("pace", said))
        device = trainer.strategy.root_device
        peak = peak_memory(device)
        if peak is not None:
            rows.append(("memory", f"{peak:.2f} GiB {kind_of_memory(device)} at most"))
        return rows


def _what_helps(num_workers: int, cores: int) -> str:
    """Return the setting that makes training wait less for its clips."""
    if num_workers < cores:
        return f"raise data.num_workers={num_workers} (this machine has {cores} cores)"
    return (
        f"data.num_workers={num_workers} keeps all {cores} cores busy already: store the frames in "
        "the size that model.image_size makes of them, or use less of data.augmentation"
    )
