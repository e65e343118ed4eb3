"""From snapshots to pictures on dashboards: what the worker does."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..config import VisualizationsConfig
from .book import RunBook
from .cadence import Event
from .clip import Clip, counted
from .curves import CurveReader
from .drawing.sheet import mean_iou_words, render_animation, render_sheet
from .images import log_gif, log_images, takes_gifs
from .limits import Troubles
from .record import PINNED, WORST
from .snapshot import Snapshot
from .store import NotABook
from .worst import WorstClips


@dataclass
class _Cost:
    """What was spent since the last values on the dashboard, and the steps that have one."""

    blocked_ms: float = 0.0
    render_ms: float = 0.0
    steps: set[int] = field(default_factory=set)


class Publisher:
    """Draws snapshots and logs the sheets; every method runs on the worker, and none raises.

    It remembers the keys and steps that it used, so each set of loggers has one of its own.

    Args:
        config: Its section of the configuration.
        troubles: Where failures are told.
        book: The run book; None: none is kept.
    """

    def __init__(
        self, config: VisualizationsConfig, troubles: Troubles, book: Optional[RunBook] = None
    ) -> None:
        self.book = book
        self._config = config
        self._troubles = troubles
        self._num_used: Counter[tuple[str, int]] = Counter()
        self._cost = _Cost()

    @property
    def keeps_book(self) -> bool:
        """Whether there is a run book, which needs no logger."""
        return self.book is not None

    def publish(
        self, loggers: list[Any], snapshots: Sequence[Snapshot], event: Event, blocked_ms: float
    ) -> None:
        """Store, draw and log one event.

        Args:
            loggers: Where the pictures go.
            snapshots: What they show; pinned clips come first.
            event: What they were taken for.
            blocked_ms: For how long taking them blocked training.
        """
        task = functools.partial(self._publish, loggers, snapshots, event, blocked_ms)
        self._guard("drawing or logging", task)

    def publish_worst(self, loggers: list[Any], worst: WorstClips, step: int) -> None:
        """Draw and log the worst clips of a validation run."""
        task = functools.partial(self._publish_worst, loggers, worst, step)
        self._guard("drawing the worst clips", task)

    def store_curves(self, curves: CurveReader) -> None:
        """Have the run book keep the points of the curves that wait."""
        self._into_book(lambda book: book.add_curves(curves.take()))

    def write_page(
        self,
        curves: CurveReader,
        table: Optional[Path] = None,
        step: int = 0,
        *,
        at_the_end: bool = False,
    ) -> None:
        """Write the run book's page, with the curves so far and a table of all objects."""

        def write(book: RunBook) -> None:
            book.add_curves(curves.take())
            if table is not None:
                book.add_table(table, step)
            book.write_page(at_the_end=at_the_end)

        self._into_book(write)

    def _into_book(self, task: Callable[[RunBook], None]) -> None:
        """Do something to the run book; a failure costs neither sheets nor further events."""
        if self.book is None:
            return
        try:
            task(self.book)
        except NotABook as refused:
            self.book = None
            self._troubles.say_once(
                "no run book",
                f"visualizations: no run book is kept: {refused}, which stay as they are; "
                "visualizations.run_dir=DIR names another folder",
            )
        except Exception as error:
            self._troubles.say_once(
                f"run book: {type(error).__name__}",
                "visualizations: the run book could not be written; training continues, and so do "
                "the other pictures (reported once per kind of failure)",
                error,
            )

    def rank(self, worst: WorstClips, blocked_ms: float) -> None:
        """Rank the candidates for the worst clips that wait."""

        def rank() -> None:
            self._cost.blocked_ms += blocked_ms
            worst.rank()

        self._guard("looking for the worst clips", rank, is_picture=False)

    def _guard(self, doing: str, task: Callable[[], None], is_picture: bool = True) -> None:
        """Run a task; nothing that it raises ends the thread."""
        if self._troubles.disabled:
            return
        try:
            task()
            if is_picture:
                self._troubles.worked()
        except BaseException as error:
            self._troubles.failed(doing, error)

    def _publish(
        self, loggers: list[Any], snapshots: Sequence[Snapshot], event: Event, blocked_ms: float
    ) -> None:
        started = time.perf_counter()
        step = event.step
        key = self._unused(f"{event.stage}/composites", step, event.batch_idx)
        clips = [clip for snapshot in snapshots for clip in snapshot.clips()]
        self._store(clips, event.stage, event.num_pinned)
        takers = self._log_sheets(loggers, key, clips, step)
        self._log_cost(takers, step, blocked_ms, started)
        if snapshots[0].options.draw_all_frames:
            self._log_animations(takers, key, clips, step)

    def _store(self, clips: Sequence[Clip], kind: str, num_pinned: int = 0) -> None:
        """Have the run book keep clips, of which the first are pinned."""

        def store(book: RunBook) -> None:
            for index, clip in enumerate(clips):
                clip.baseline_ious = book.add(clip, PINNED if index < num_pinned else kind)

        self._into_book(store)

    def _publish_worst(self, loggers: list[Any], worst: WorstClips, step: int) -> None:
        started = time.perf_counter()
        key = self._unused("val/worst", step)
        worst.rank()
        if worst.num_ranked < worst.num_seen:
            self._troubles.say_once(
                "worst",
                f"visualizations: val/worst covers only {worst.num_ranked} of the "
                f"{counted(worst.num_seen, 'validated clip', 'validated clips')}; the others were "
                "not examined, to stay within "
                f"visualizations.max_overhead={self._config.max_overhead:g} or because drawing "
                "fell behind",
            )
        clips = worst.clips()
        if clips:
            self._store(clips, WORST)
            takers = self._log_sheets(loggers, key, clips, step)
            self._log_cost(takers, step, 0.0, started)

    def _unused(self, key: str, step: int, batch_idx: int = 0) -> str:
        """Give every picture of one step a key of its own: dashboards drop a second one."""
        if batch_idx:
            key = f"{key}_batch{batch_idx}"
        self._num_used[key, step] += 1
        count = self._num_used[key, step]
        return key if count == 1 else f"{key}_{count}"

    def _log_sheets(self, loggers: list[Any], key: str, clips: list[Clip], step: int) -> list[Any]:
        """Draw one sheet per clip and return the loggers that took them."""
        if self.keeps_book and (not loggers or self._troubles.are_useless(loggers)):
            return []
        drawn = [clip.select(self._sheet_frames(clip)) for clip in clips]
        sheets, captions = draw_sheets(drawn, self._config.panel_size)
        takers = []
        failures: list[tuple[str, Exception]] = []
        for logger in loggers:
            try:
                if log_images(logger, key, sheets, step, captions):
                    takers.append(logger)
            except Exception as error:
                failures.append((type(logger).__name__, error))
        if failures and not takers:
            raise failures[0][1]
        for name, failure in failures:
            self._troubles.say_once(
                f"{name}: {type(failure).__name__}",
                f"visualizations: {name} did not accept the pictures; other loggers did",
                failure,
            )
        if not takers:
            if not self.keeps_book:
                self._troubles.say_once(
                    "no logger",
                    "visualizations: no logger accepts images, so no pictures are drawn",
                )
            self._troubles.take_no_images(loggers)
        return takers

    def _sheet_frames(self, clip: Clip) -> list[int]:
        config = self._config
        wanted = range(0, config.frame_stride * config.max_frames, config.frame_stride)
        return [i for i, frame in enumerate(clip.frames) if frame.position in wanted]

    def _log_cost(self, loggers: list[Any], step: int, blocked_ms: float, started: float) -> None:
        """Log what was spent since the last values; a second value of one step would be lost."""
        cost = self._cost
        cost.blocked_ms += blocked_ms
        cost.render_ms += (time.perf_counter() - started) * 1e3
        if step in cost.steps or not (loggers or self.keeps_book):
            return
        scalars = {
            "visualizations/blocked_ms": cost.blocked_ms,
            "visualizations/render_ms": cost.render_ms,
            "visualizations/dropped": float(self._troubles.num_dropped),
        }
        cost.steps.add(step)
        cost.blocked_ms = cost.render_ms = 0.0
        self._into_book(lambda book: book.add_curves([{"step": step, "values": scalars}]))
        # Not to loggers without images: CSV's is not made to be called from two threads.
        for logger in loggers:
            if hasattr(logger, "log_metrics"):
                logger.log_metrics(scalars, step=step)

    def _log_animations(self, loggers: list[Any], key: str, clips: list[Clip], step: int) -> None:
        loggers = [logger for logger in loggers if takes_gifs(logger)]
        if not loggers:
            return
        for index, clip in enumerate(clips):
            name = key.replace("composites", "animation") + (f"_clip{index}" if index else "")
            frames = render_animation(clip, self._config.panel_size)
            if not log_gif(loggers, name, frames, step, caption=clip.name):
                self._troubles.say_once(
                    "large gif",
                    f"visualizations: {name} was not logged: SwanLab accepts at most 10 MiB; a "
                    f"visualizations.panel_size below {self._config.panel_size} may help",
                )


def draw_sheets(clips: Sequence[Clip], panel_size: int) -> tuple[list[np.ndarray], list[str]]:
    """Return one sheet and one caption per clip."""
    sheets = [render_sheet(clip, panel_size=panel_size) for clip in clips]
    return sheets, [_caption(clip) for clip in clips]


def _caption(clip: Clip) -> str:
    when = f"{clip.moment.stage} · step {clip.moment.step} · " if clip.moment else ""
    return f"{when}{clip.name} · {mean_iou_words(clip)}"
