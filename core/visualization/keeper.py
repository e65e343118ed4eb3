"""The run book as a training meets it: whatever goes wrong with it costs the book alone."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..config import VisualizationsConfig
from ..metrics.doctor import Baseline, Diagnosis
from ..metrics.outcomes import Findings
from .book import RunBook, is_fitting, open_book, run_dir_of
from .clip import Clip
from .curves import CurveReader
from .images import log_page
from .limits import Troubles
from .record import PINNED
from .store import PAGE, NotABook


def _for_last_frames(ious: Optional[np.ndarray], num_frames: int) -> Optional[np.ndarray]:
    """Return [T', C] of the last T' of some frames as [T, C], NaN for the others."""
    if ious is None:
        return None
    padding = np.full((num_frames - len(ious), ious.shape[1]), math.nan)
    return np.concatenate([padding, ious])


class Keeper:
    """Keeps the book of one run, or none.

    Only `note_curves` and `begin_validation` belong to the training thread.

    Args:
        troubles: Where failures are told.
        book: The run's; None: none is kept.
        was_fitted: The book is that of a training, which has begun.
        is_closed: Nothing is kept for now: what comes is no part of that training.
    """

    def __init__(
        self,
        troubles: Troubles,
        book: Optional[RunBook] = None,
        *,
        was_fitted: bool = False,
        is_closed: bool = False,
    ) -> None:
        self._troubles = troubles
        self._book = book
        self._was_fitted = was_fitted
        self._is_closed = is_closed
        self._curves = CurveReader()

    @property
    def is_open(self) -> bool:
        """Whether a run book is kept, which needs no logger."""
        return self._book is not None and not self._is_closed

    def of_run(self, config: VisualizationsConfig, trainer: Any) -> "Keeper":
        """Return what keeps the book of a run that begins, with a trainer of its own.

        In the folder of the run before its book goes on. Once that is a training's, another
        training begins a new start of it, and what else such a trainer does, which counts its
        steps from zero, is not kept.

        Raises:
            VisualizationsError: There can be no book, and ``strict`` is on.
        """
        try:
            fits = is_fitting(trainer)
            run_dir = run_dir_of(config, trainer.loggers) if config.run_book else None
            if self._book is None or run_dir != self._book.run_dir:
                return Keeper(self._troubles, open_book(config, trainer), was_fitted=fits)
            self._book.max_mb = config.run_book_mb
            if fits and self._was_fitted:
                self._book.begin_start()
            return self._going_on(fits, is_closed=self._was_fitted and not fits)
        except Exception as error:
            self._troubles.failed("opening the run book", error)
            return Keeper(self._troubles)

    def of_stage(self, stage: str) -> "Keeper":
        """Return what keeps the book while the trainer of its run does something further.

        Validating once more after a training is not kept: its last step has been validated, with
        the weights of that step.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        return self._going_on(stage == "fit", is_closed=self._was_fitted and stage == "validate")

    def _going_on(self, fits: bool, is_closed: bool) -> "Keeper":
        was_fitted = self._was_fitted or fits
        return Keeper(self._troubles, self._book, was_fitted=was_fitted, is_closed=is_closed)

    def begin_validation(self, trainer: Any) -> None:
        """Tell what a validation that begins logs from what was logged before."""
        if self.is_open:
            self._curves.begin_validation(trainer)

    def note_curves(self, trainer: Any, *, after_validation: bool = False) -> bool:
        """Note what reached the loggers, and return whether `store_curves` is to be called."""
        return self.is_open and self._curves.read(trainer, after_validation)

    def store(self, clips: Sequence[Clip], kind: str, num_pinned: int = 0) -> None:
        """Store clips, of which the first are pinned, and give them their baseline."""

        def store(book: RunBook) -> None:
            for index, clip in enumerate(clips):
                # Of a clip of one frame its last round: a book knows frames by their numbers.
                kept = clip.select([-1]) if clip.is_of_rounds else clip
                before = book.add(kept, PINNED if index < num_pinned else kind)
                clip.baseline_ious = _for_last_frames(before, len(clip.frames))

        self._do(store)

    def store_costs(self, step: int, blocked_ms: float, render_ms: float) -> None:
        """Store what an event cost."""
        values = {
            "visualizations/blocked_ms": blocked_ms,
            "visualizations/render_ms": render_ms,
            "visualizations/dropped": self._troubles.num_dropped,
        }
        self._do(lambda book: book.add_curves([{"step": step, "values": values}]))

    def store_diagnoses(self, diagnoses: Sequence[Diagnosis], step: int) -> None:
        """Store what was wrong at each validation up to that of `step`."""
        self._do(lambda book: book.add_diagnoses(diagnoses, step))

    def store_curves(self) -> None:
        """Store the points of the curves that wait."""
        self._do(lambda book: book.add_curves(self._curves.take()))

    def store_outcomes(self, findings: Findings, step: int) -> None:
        """Store what became of the objects of a validation."""
        self._do(lambda book: book.add_outcomes(findings, step))

    def write_page(
        self,
        table: Optional[Path] = None,
        step: int = 0,
        baseline: Optional[Baseline] = None,
        *,
        at_the_end: bool = False,
    ) -> None:
        """Write the page, with the curves so far and a validation's table of all objects."""

        def write(book: RunBook) -> None:
            book.add_curves(self._curves.take())
            if table is not None:
                book.add_table(table, step)
            if baseline is not None and baseline.step < step:
                book.add_baseline(baseline, step)
            book.write_page(at_the_end=at_the_end)

        self._do(write)

    def log_page(self, loggers: Sequence[Any]) -> None:
        """Log the page to the loggers that show one."""

        def log(book: RunBook) -> None:
            page = book.run_dir / PAGE
            if page.is_file():
                for logger in loggers:
                    log_page(logger, "run_book", page)

        self._do(log)

    def _do(self, task: Callable[[RunBook], None]) -> None:
        if self._book is None or self._is_closed:
            return
        try:
            task(self._book)
        except NotABook as refused:
            self._book = None
            self._troubles.say_in_background(
                "no run book",
                f"visualizations: no run book is kept: {refused}, which stay as they are; "
                "visualizations.run_dir=DIR names another folder",
            )
        except Exception as error:
            self._troubles.say_in_background(
                f"run book: {type(error).__name__}",
                "visualizations: the run book could not be written; training continues, and so do "
                "the other pictures (reported once per kind of failure)",
                error,
            )
