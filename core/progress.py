"""How far a run is: a bar at a terminal, elsewhere and in ``train.log`` a line now and then."""

import logging
import math
import sys
import time
from typing import Any, Optional

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 300.0  # at most, where a tenth of the run takes longer
SECONDS_BETWEEN_READINGS = 1.0  # of the loss, which on a GPU has to be waited for


class Progress(ProgressBar):
    """Shows the optimizer step, the loss, ``val/iou`` and the time left, on rank zero.

    Steps are counted over the whole run rather than over an epoch. Every validation leaves a line,
    and so does every tenth of the run where there is no bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Optional[Bar] = None
        self._total: Optional[int] = None  # steps of the run, None where there is no limit
        self._loss = self._iou = math.nan
        self._read_at = -math.inf
        self._start = self._last_line = (0, 0.0)  # step and time
        self._line_is_due = False

    def disable(self) -> None:
        """Nothing: Lightning calls this on other ranks, which write nothing anyway."""

    def on_validation_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Show the bar, also for a validation before training."""
        self._show(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Count the batches of a validation."""
        num_batches = sum(trainer.num_val_batches)
        self._update(trainer, f"validating {args[3] + 1}/{num_batches}")

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write what was measured."""
        if trainer.sanity_checking:
            return
        self._iou = float(trainer.callback_metrics.get("val/iou", math.nan))
        self._update(trainer)
        self._write_line(trainer)

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Start to reckon the time left."""
        steps = trainer.estimated_stepping_batches
        self._total = None if math.isinf(steps) else int(steps)
        self._start = self._last_line = (trainer.global_step, time.monotonic())
        self._show(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the line that is due, unless a validation has written it."""
        if self._line_is_due:
            self._write_line(trainer, file_only=self._bar is not None)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Count the step; the loss is read now and then only."""
        step, (last_step, last_time), now = trainer.global_step, self._last_line, time.monotonic()
        tenth = max(1, self._total // 10) if self._total else math.inf
        if step // tenth > last_step // tenth or now - last_time > SECONDS_BETWEEN_LINES:
            self._line_is_due = True
        if self._line_is_due or now - self._read_at > SECONDS_BETWEEN_READINGS:
            self._read_at = now
            self._loss = float(args[1]["loss"]) if args[1] else math.nan
        self._update(trainer)

    def on_exception(self, *args: Any) -> None:
        """Leave the terminal as it was, above what is said of the error."""
        self._hide()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Leave the terminal as it was."""
        self._hide()

    def _show(self, trainer: pl.Trainer) -> None:
        if self._bar is None and trainer.is_global_zero and sys.stdout.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[measured]}"),
                console=Console(),
                expand=True,
                transient=True,
            )
            self._bar.add_task("", total=self._total, measured="")
            self._update(trainer)
            self._bar.start()

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _update(self, trainer: pl.Trainer, doing: Optional[str] = None) -> None:
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                description=doing or self._step(trainer),
                completed=trainer.global_step,
                total=self._total,
                measured=self._measured(trainer),
            )

    def _write_line(self, trainer: pl.Trainer, file_only: bool = False) -> None:
        self._last_line, self._line_is_due = (trainer.global_step, time.monotonic()), False
        if trainer.is_global_zero:
            line = f"{self._step(trainer)}  {self._measured(trainer)}"
            log.info("%s", line, extra={"file_only": file_only})

    def _step(self, trainer: pl.Trainer) -> str:
        if trainer.state.fn == "validate":
            return "before training"
        return f"step {trainer.global_step}" + (f"/{self._total}" if self._total else "")

    def _measured(self, trainer: pl.Trainer) -> str:
        parts = []
        if not math.isnan(self._loss):
            parts.append(f"loss {self._loss:.3f}")
        if not math.isnan(self._iou):
            parts.append(f"val/iou {self._iou:.3f}")
        left_s = seconds_left(self._start, trainer.global_step, self._total or 0)
        if left_s:
            parts.append(f"{duration(left_s)} left")
        return "  ".join(parts)


def seconds_left(start: tuple[int, float], step: int, total: int) -> Optional[float]:
    """Return how long a run will still take, validations included; None where nothing tells.

    Args:
        start: The step at which it began, and the time of ``time.monotonic`` then.
        step: Steps that are done.
        total: Steps of the whole run; 0 where there is no limit.
    """
    first, since = start
    if step <= first or total < step:
        return None
    return (time.monotonic() - since) / (step - first) * (total - step)


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, from an hour on with hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
