"""Pictures that were taken are logged before a run ends, however it ends."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from ..metrics.doctor import Baseline, Diagnosis, Doctor
from ..metrics.outcomes import Findings
from .hosts import own_of


class Flushable(Protocol):
    """What the callback calls of a `Visualizer`; it raises a `VisualizationsError` or nothing."""

    def forget_clips(self) -> None:
        """Forget what an interrupted validation has kept."""

    def log_pinned(self, remark: Optional[str] = None) -> None:
        """Draw the pinned clips that were held."""

    def log_prompts(self, loggers: Sequence[Any], step: int) -> None:
        """Draw a clip under each prompt type."""

    def log_worst(self, loggers: Sequence[Any], step: int) -> None:
        """Draw the worst clips seen."""

    def log_outcomes(self, loggers: Sequence[Any], findings: Findings, step: int) -> None:
        """Draw what became of each object."""

    def log_diagnoses(
        self, loggers: Sequence[Any], diagnoses: Sequence[Diagnosis], step: int
    ) -> None:
        """Say what is wrong."""

    def begin_stage(self, stage: str) -> None:
        """Go on with something further that the trainer does."""

    def begin_validation(self, trainer: Any) -> None:
        """Tell what a validation logs from what was logged before."""

    def note_curves(self, trainer: Any, *, after_validation: bool = False) -> None:
        """Keep what reached the loggers."""

    def write_page(
        self, table: Optional[Path] = None, step: int = 0, baseline: Optional[Baseline] = None
    ) -> None:
        """Have the run book's page written."""

    def flush(self, page_takers: Sequence[Any] = ()) -> None:
        """Wait for the pictures taken."""

    def raise_what_failed(self) -> None:
        """Raise what failed in the background, where that is asked for."""

    def say_what_failed(self) -> None:
        """Warn of it instead."""


class FlushCallback(Callback):
    """Has the pictures of a visualizer logged before a run ends, however it ends.

    It is added to the trainer by the hook's first call, so that no module needs to call a hook of
    ours, and added again where someone has put another list of callbacks in place of the trainer's.

    Args:
        visualizer: The `Visualizer` of the module.
    """

    def __init__(self, visualizer: Flushable) -> None:
        self._visualizer = visualizer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell what the trainer does further: it has the callback since the first thing it did."""
        self._visualizer.begin_stage(stage)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the clips of a validation run that was interrupted."""
        self._visualizer.forget_clips()
        self._visualizer.begin_validation(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the clips of the validation run that were kept, what became of all, and why."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            doctor = own_of(pl_module, "doctor", Doctor)
            self._visualizer.log_pinned(None if doctor is None else doctor.in_short())
            self._visualizer.log_prompts(trainer.loggers, trainer.global_step)
            self._visualizer.log_worst(trainer.loggers, trainer.global_step)
            findings = own_of(pl_module, "findings", Findings)
            if findings is not None:
                self._visualizer.log_outcomes(trainer.loggers, findings, trainer.global_step)
            if doctor is not None:
                self._visualizer.log_diagnoses(
                    trainer.loggers, doctor.diagnoses, trainer.global_step
                )
            self._visualizer.note_curves(trainer, after_validation=True)
            table = own_of(pl_module, "objects_table", Path)
            baseline = own_of(pl_module, "baseline", Baseline)
            self._visualizer.write_page(table, trainer.global_step, baseline)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Keep what the step before logged, which reaches the loggers after its last hook."""
        self._visualizer.note_curves(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the last step logged."""
        self._visualizer.note_curves(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the clips of a run that was interrupted."""
        self._visualizer.forget_clips()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the clips that were kept; what the module found is of its last validation."""
        if trainer.is_global_zero:
            self._visualizer.log_pinned()
            self._visualizer.log_worst(trainer.loggers, trainer.global_step)
            self._visualizer.write_page()

    on_predict_start, on_predict_end = on_test_start, on_test_end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Flush before the loggers are closed."""
        self._visualizer.flush(trainer.loggers)
        self._visualizer.raise_what_failed()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Flush what was taken before the failure or interrupt, whose place nothing takes."""
        self._visualizer.flush()
        self._visualizer.say_what_failed()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Flush after runs that have no `on_fit_end`, such as ``trainer.validate``."""
        self._visualizer.flush()
        self._visualizer.raise_what_failed()


def let_python_handle_interrupts() -> None:
    """Put Python's handler of Ctrl+C back in the place of SwanLab's."""
    # SwanLab's handler closes its run before Lightning hears of the interrupt, and with it the
    # pictures still waiting. SwanLab closes the run all the same, when Lightning finalizes it.
    handler = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is threading.main_thread()
        and callable(handler)
        and (getattr(handler, "__module__", "") or "").startswith("swanlab")
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
