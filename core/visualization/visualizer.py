"""What the training thread does for a picture that is due: take a snapshot, queue it, go on.

Nothing here raises into training. Each piece of state belongs to one thread: `Budget` and `Cadence`
to the training thread, `Publisher` to the worker. What both write is in `Troubles`,
`BackgroundWorker` and `WorstClips`, which are made for it.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional, Protocol

from ..config import VisualizationsConfig
from ..official import Batch, FrameOutputs
from .book import RunBook, open_book, run_dir_of
from .cadence import Cadence, Event
from .clip import Moment, counted
from .curves import CurveReader
from .images import takes_gifs
from .limits import Budget, Troubles
from .publisher import Publisher
from .snapshot import Snapshot, SnapshotOptions, take_snapshot
from .worker import BackgroundWorker
from .worst import WorstClips

log = logging.getLogger(__name__)

# Looking for the worst clips ends at this part of the budget: the rest is for pictures.
SCORING_PART = 0.5
# So does keeping frames of pinned clips that no sheet shows.
FURTHER_PART = 0.5


class Trainer(Protocol):
    """What is asked of Lightning's trainer; ``callbacks`` and ``datamodule`` may be missing."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process logs."""

    @property
    def sanity_checking(self) -> bool:
        """Whether the validation before training runs."""

    @property
    def global_step(self) -> int:
        """Optimizer steps taken."""

    @property
    def current_epoch(self) -> int:
        """Epochs finished."""

    @property
    def loggers(self) -> Sequence[Any]:
        """Where metrics and pictures go."""


class Visualizer:
    """Draws the events of one module in the background.

    The hook asks `cadence` what is due and hands it to `take`; the trainer, through the callback
    that `attach` adds, calls `log_worst` after a validation and `flush` at the end.

    Args:
        config: Its section of the configuration.
        num_categories: Categories drawn when the section leaves it open; None: the video's objects.
    """

    def __init__(self, config: VisualizationsConfig, num_categories: Optional[int] = None) -> None:
        self.config = config
        self.num_categories = config.num_categories or num_categories
        self.cadence = Cadence(config)
        self.troubles = Troubles()
        self.worker = BackgroundWorker(config.max_pending)
        self._budget = Budget(config.max_overhead)
        self._publisher = Publisher(config, self.troubles)
        self._worst = WorstClips(config.worst_clips)
        self._curves = CurveReader()
        self._trainer: Optional[Trainer] = None
        self._loggers: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies of a module (weight averaging, spawned processes) start with an empty one."""
        return Visualizer, (self.config, self.num_categories)

    @property
    def disabled(self) -> bool:
        """Whether too many failures in a row turned it off for the run."""
        return self.troubles.disabled

    @property
    def dropped(self) -> int:
        """Events of the run that were not drawn, to stay within the budget or for lack of room."""
        return self.troubles.num_dropped

    def attach(self, trainer: Trainer) -> None:
        """Make sure that pictures are flushed when `trainer` ends, and that Ctrl+C lets them.

        The first call with a trainer begins a run: what was turned off, and what was said, belongs
        to the one before. Later calls do nothing.
        """
        if self._trainer is trainer:
            return
        # Here, where there is a trainer: drawing at once needs no Lightning.
        from .flush import FlushCallback, let_python_handle_interrupts

        self._trainer = trainer
        if not any(logger in self._loggers for logger in trainer.loggers):
            # Keys and steps are used up only where they were logged.
            self._publisher = Publisher(self.config, self.troubles, self._book_of(trainer))
        self._loggers = list(trainer.loggers)
        self.troubles.begin_anew()
        self._budget = Budget(self.config.max_overhead)
        self.forget_clips()
        callbacks = getattr(trainer, "callbacks", None)
        if isinstance(callbacks, list):
            callbacks.append(FlushCallback(self))
        let_python_handle_interrupts()

    def take(
        self,
        event: Event,
        loggers: Sequence[Any],
        batch: Batch,
        outs_per_frame: Sequence[FrameOutputs],
        moment: Moment,
        obj_to_cat: Optional[Sequence[int]] = None,
    ) -> None:
        """Take snapshots of a batch and have them drawn; never raises an Exception.

        Args:
            event: What `Cadence.due` returned.
            loggers: Where the pictures go.
            batch: See `take_snapshot`.
            outs_per_frame: See `take_snapshot`.
            moment: See `take_snapshot`.
            obj_to_cat: See `take_snapshot`.
        """
        loggers = list(loggers)
        if self.disabled or (not self._publisher.keeps_book and self.troubles.are_useless(loggers)):
            return
        with self._budget.spending():
            try:
                snapshot = functools.partial(
                    take_snapshot,
                    batch,
                    outs_per_frame,
                    moment,
                    obj_to_cat=obj_to_cat,
                )
                if event.stage == "val":
                    self.cadence.note_batch_size(event, batch.img_batch.shape[1])
                if event.num_videos > 0:
                    self._take_pictures(event, loggers, snapshot)
                if event.is_scored:
                    self._take_candidates(batch.img_batch.shape[1], snapshot)
            except Exception as error:
                self.troubles.failed("taking a snapshot", error)

    def log_worst(self, loggers: Sequence[Any], step: int) -> None:
        """Draw the clips of the lowest mean IoU since the last call, under ``val/worst``.

        Never raises an Exception.
        """
        try:
            worst = self._worst
            self.forget_clips()
            if self.disabled or not worst.num_seen:
                return
            taken = self.worker.submit(
                functools.partial(self._publisher.publish_worst, list(loggers), worst, step),
                num_pictures=min(self.config.worst_clips, worst.num_seen),
                even_if_full=True,
            )
            if not taken:
                self._drop_for_lack_of_room()
        except Exception as error:
            self.troubles.failed("drawing the worst clips", error)

    def note_curves(self, trainer: Any, *, after_validation: bool = False) -> None:
        """Keep for the run book what reached the loggers since the last call; never raises."""
        try:
            if self._publisher.keeps_book and self._curves.read(trainer, after_validation):
                self._do_for_book(functools.partial(self._publisher.store_curves, self._curves))
        except Exception as error:
            self.troubles.failed("reading the curves", error)

    def write_page(self, table: Optional[Path] = None, step: int = 0) -> None:
        """Have the run book's page written after a validation; never raises.

        Args:
            table: Where the metrics of all its objects are listed.
            step: Optimizer steps taken.
        """
        try:
            self._write_page(table, step)
        except Exception as error:
            self.troubles.failed("writing the run book", error)

    def forget_clips(self) -> None:
        """Start looking for the worst clips anew."""
        self._worst = WorstClips(self.config.worst_clips)

    def flush(self) -> None:
        """Wait until the pictures taken are logged, at most `flush_timeout_s` seconds.

        Never raises an Exception: it runs while training ends, or fails for a reason of its own.
        """
        try:
            self.cadence.begin_anew()
            self._write_page(at_the_end=True)
            given_up = self.worker.drain(self.config.flush_timeout_s)
            if given_up:
                log.warning(
                    "visualizations: %s not logged within visualizations.flush_timeout_s=%g",
                    counted(
                        given_up,
                        "picture was dropped: it was",
                        "pictures were dropped: they were",
                    ),
                    self.config.flush_timeout_s,
                )
        except Exception as error:
            self.troubles.failed("waiting for the pictures", error)

    def _take_pictures(
        self, event: Event, loggers: list[Any], take: Callable[..., Snapshot]
    ) -> None:
        started = time.perf_counter()
        if not self._budget.allows():
            share, allowed = self._budget.share(), self.config.max_overhead
            self.troubles.dropped(
                "budget",
                f"visualizations: taking pictures blocked training for {share:.1%} of the time, "
                "more than "
                f"visualizations.max_overhead={allowed:g}; events are skipped until the share is "
                "below it",
            )
            return
        if not self.worker.has_room():
            self._drop_for_lack_of_room()
            return
        snapshots = self._snapshots(event, loggers, take)
        self._say_what_is_missing(snapshots[0])
        blocked_ms = (time.perf_counter() - started) * 1e3
        publish = functools.partial(self._publisher.publish, loggers, snapshots, event, blocked_ms)
        num_pictures = sum(len(snapshot.videos) for snapshot in snapshots)
        self.worker.submit(publish, num_pictures=num_pictures)

    def _snapshots(
        self, event: Event, loggers: list[Any], take: Callable[..., Snapshot]
    ) -> list[Snapshot]:
        """Take a snapshot of an event's clips; pinned ones may keep more frames than others."""
        is_animated = self._is_animated(event, loggers)
        further = self._publisher.keeps_book and self._budget.allows(FURTHER_PART)
        num_pinned = event.num_pinned if further and not is_animated else 0
        ranges = [(range(num_pinned), self.config.run_book_frames)] if num_pinned else []
        if event.num_videos > num_pinned:
            ranges.append((range(num_pinned, event.num_videos), 0))
        return [
            take(
                videos=videos,
                options=self._options(draw_all_frames=is_animated, kept_frames=kept_frames),
            )
            for videos, kept_frames in ranges
        ]

    def _say_what_is_missing(self, snapshot: Snapshot) -> None:
        reduced = snapshot.reduced
        if reduced.identifiers.size == 0 and reduced.row_videos.size > 0:
            self.troubles.say_once(
                "identifiers",
                "visualizations: the batch has no metadata.unique_objects_identifier [T, O, 3] "
                "(video, object, frame): sheets number videos, objects and frames by position; "
                "pass SAM 2's BatchedVideoDatapoint to have their own ids",
            )

    def _take_candidates(self, num_clips: int, take: Callable[..., Snapshot]) -> None:
        """Have all clips of a batch ranked, unless that would cost the pictures' time or memory."""
        worst = self._worst
        worst.num_seen += num_clips
        if not (self._budget.allows(SCORING_PART) and worst.has_room()):
            return
        started = time.perf_counter()
        options = self._options(measure_all_frames=True)
        worst.add(take(videos=range(num_clips), options=options))
        blocked_ms = (time.perf_counter() - started) * 1e3
        rank = functools.partial(self._publisher.rank, worst, blocked_ms)
        self.worker.submit(rank, num_pictures=0)

    def _book_of(self, trainer: Trainer) -> Optional[RunBook]:
        """Return the book of a run that begins; in the same folder it is the one that there is."""
        book = self._publisher.book
        if book is not None and run_dir_of(self.config, trainer.loggers) == book.run_dir:
            return book
        self._curves = CurveReader()
        try:
            return open_book(self.config, trainer)
        except Exception as error:
            self.troubles.failed("opening the run book", error)
            return None

    def _write_page(
        self, table: Optional[Path] = None, step: int = 0, *, at_the_end: bool = False
    ) -> None:
        write = functools.partial(
            self._publisher.write_page, self._curves, table, step, at_the_end=at_the_end
        )
        self._do_for_book(write)

    def _do_for_book(self, task: Callable[[], None]) -> None:
        if self._publisher.keeps_book:
            self.worker.submit(task, num_pictures=0)

    def _options(self, **frames: Any) -> SnapshotOptions:
        config = self.config
        return SnapshotOptions(
            max_frames=config.max_frames,
            frame_stride=config.frame_stride,
            num_categories=self.num_categories,
            panel_size=config.panel_size,
            **frames,
        )

    def _is_animated(self, event: Event, loggers: list[Any]) -> bool:
        if not (self.config.animation and event.stage == "val"):
            return False
        if any(takes_gifs(logger) for logger in loggers):
            return True
        self.troubles.say_once(
            "gif", "visualizations: no logger accepts GIFs; animations are skipped"
        )
        return False

    def _drop_for_lack_of_room(self) -> None:
        if self.worker.is_stuck():
            self.troubles.dropped(
                "stuck",
                "visualizations: a picture from an earlier run is still being drawn or logged; "
                "new ones are dropped until it finishes",
            )
        else:
            waiting = counted(self.worker.num_waiting_pictures(), "picture", "pictures")
            allowed = counted(self.config.max_pending, "event", "events")
            self.troubles.dropped(
                "full",
                f"visualizations: the drawing queue is full ({waiting}, "
                f"visualizations.max_pending={allowed}); new events are dropped until there is "
                "room",
            )
