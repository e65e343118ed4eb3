"""What the training thread does for a picture that is due: take a snapshot, queue it, go on.

Nothing here raises into training, unless the setting ``strict`` asks for it. Each piece of state
belongs to one thread: `Budget` and `Cadence` to the training thread, `Publisher` to the worker.
What both write is in `Troubles`, `BackgroundWorker` and `WorstClips`, which are made for it.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Protocol

from ..config import VisualizationsConfig
from ..metrics.doctor import Baseline, Diagnosis
from ..metrics.outcomes import Findings
from ..official import Batch, FrameOutputs
from ..words import counted
from .cadence import TRAIN, Cadence, Event
from .clip import Moment
from .images import goes_nowhere, takes_gifs
from .keeper import Keeper
from .limits import Budget, Troubles, VisualizationsError
from .publisher import Publisher
from .snapshot import Snapshot, SnapshotOptions, take_snapshot
from .worker import BackgroundWorker
from .worst import WorstClips

log = logging.getLogger(__name__)

# Looking for the worst clips ends at this part of the budget: the rest is for pictures.
SCORING_PART = 0.5
# So does keeping frames of pinned clips that no sheet shows.
FURTHER_PART = 0.5
# Tasks with pictures that end a validation, beside those of pinned clips: a clip under each prompt
# type, the worst clips, strips and distances.
_PER_VALIDATION = 4


class Trainer(Protocol):
    """What is asked of Lightning's trainer.

    ``callbacks``, ``datamodule`` and ``fast_dev_run`` may be missing.
    """

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


@dataclass
class _Taken:
    """An event whose pictures are to be drawn."""

    event: Event
    loggers: list[Any]
    snapshots: list[Snapshot]
    blocked_ms: float


class Visualizer:
    """Draws the events of one module in the background.

    The hook asks `due` and hands the event to `take`; the trainer, through the callback that
    `due` adds, calls `log_pinned`, `log_prompts`, `log_worst`, `log_outcomes` and
    `log_diagnoses` after a validation and `flush` at the end.

    Args:
        config: Its section of the configuration.
        num_categories: Categories drawn when the section leaves it open; None: the video's objects.
    """

    def __init__(self, config: VisualizationsConfig, num_categories: Optional[int] = None) -> None:
        self.config = config
        self.num_categories = config.num_categories or num_categories
        self.cadence = Cadence(config)
        self.troubles = Troubles(config.strict)
        self.worker = BackgroundWorker(*_room(config))
        self._budget = Budget(config.max_overhead)
        self._publisher = Publisher(config, self.troubles)
        self._keeper = Keeper(self.troubles)
        self._worst: dict[str, WorstClips] = {}
        self._held: list[_Taken] = []
        self._by_prompts: Optional[dict[str, Snapshot]] = {}  # None: one of them failed
        self._trainer: Optional[Trainer] = None
        self._callback: Any = None  # what `_attach` added to the trainer

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies of a module (weight averaging, spawned processes) start with an empty one."""
        return Visualizer, (self.config, self.num_categories)

    def is_new(self, trainer: Trainer) -> bool:
        """Return whether `due` was called last with another trainer, or never."""
        return trainer is not self._trainer

    def go_on_with(
        self, config: VisualizationsConfig, num_categories: Optional[int] = None
    ) -> None:
        """Take the settings of a run that begins; what was taken before is drawn with its own.

        The run book goes on, and no key and step of a logger is used twice.

        Args:
            config: See `Visualizer`.
            num_categories: See `Visualizer`.
        """
        num_categories = config.num_categories or num_categories
        if (config, num_categories) == (self.config, self.num_categories):
            return
        self.flush()
        self.config, self.num_categories = config, num_categories
        self.cadence = Cadence(config)
        self.troubles.strict = config.strict
        self.worker.max_pending, self.worker.max_further = _room(config)
        self._publisher.config = config

    @property
    def disabled(self) -> bool:
        """Whether too many failures in a row turned it off for the run."""
        return self.troubles.disabled

    @property
    def dropped(self) -> int:
        """Events of the run that were not drawn, to stay within the budget or for lack of room."""
        return self.troubles.num_dropped

    def due(self, trainer: Trainer, stage: str, batch_idx: int) -> Optional[Event]:
        """Return what is to be done with this batch; None: nothing.

        The first call with a trainer adds the callback that has pictures flushed when it ends.

        Most batches end here, so whatever only matters when something is due is asked last. What
        others may replace in a trainer is looked up then, not remembered: Lightning's Tuner does so
        with its loggers and callbacks.

        Raises:
            VisualizationsError: See `raise_what_failed`.
        """
        if self.is_new(trainer):
            self._trainer, self._callback = trainer, None
            self.cadence.begin_anew()
        if self.config.strict:
            self.raise_what_failed()
        is_first_of_run = batch_idx == 0 and trainer.current_epoch == 0
        event = self.cadence.due(stage, trainer.global_step, batch_idx, is_first_of_run)
        if event is None and self._callback is not None:
            return None
        if _is_for_nobody(trainer):
            self.cadence.begin_anew()
            return None
        self._attach(trainer)
        return event

    def _attach(self, trainer: Trainer) -> None:
        """Make sure that pictures are flushed when `trainer` ends, and that Ctrl+C lets them.

        The first call with a trainer begins a run: what was turned off, and what was said, belongs
        to the one before. Later calls only put the callback back where somebody took it out.
        """
        if self._callback is not None:
            self._add_callback(trainer)
            return
        # Here, where there is a trainer: drawing at once needs no Lightning.
        from .flush import FlushCallback, let_python_handle_interrupts

        self.troubles.begin_anew()
        self._budget = Budget(self.config.max_overhead)
        self.forget_clips()
        self._keeper = self._keeper.of_run(self.config, trainer)
        self._callback = FlushCallback(self)
        self._add_callback(trainer)
        let_python_handle_interrupts()
        if getattr(trainer, "validating", False):
            self.begin_validation(trainer)

    def _add_callback(self, trainer: Trainer) -> None:
        callbacks = getattr(trainer, "callbacks", None)
        if isinstance(callbacks, list) and self._callback not in callbacks:
            callbacks.append(self._callback)

    def take(
        self,
        event: Event,
        loggers: Sequence[Any],
        batch: Batch,
        outs_per_frame: Sequence[FrameOutputs],
        moment: Moment,
        obj_to_cat: Optional[Sequence[int]] = None,
        failure_shares: Optional[Sequence[float]] = None,
        holds_pinned: bool = False,
    ) -> None:
        """Take snapshots of a batch and have them drawn.

        Args:
            event: What `due` returned.
            loggers: Where the pictures go.
            batch: See `take_snapshot`.
            outs_per_frame: See `take_snapshot`.
            moment: See `take_snapshot`.
            obj_to_cat: See `take_snapshot`.
            failure_shares: See `WorstClips.add`.
            holds_pinned: Draw pinned clips when `log_pinned` is called, no sooner.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        loggers = list(loggers)
        if self.disabled or not (self._keeper.is_open or not self.troubles.are_useless(loggers)):
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
                self.cadence.note_batch_size(event, batch.img_batch.shape[1])
                if event.num_videos > 0:
                    self._take_pictures(event, loggers, snapshot, holds_pinned)
                if event.is_scored:
                    num_clips = batch.img_batch.shape[1]
                    self._take_candidates(event.stage, num_clips, snapshot, failure_shares)
            except Exception as error:
                self.troubles.failed("taking a snapshot", error)

    def compares_prompts(self, trainer: Trainer, batch_idx: int) -> bool:
        """Return whether the first clip of a validation batch is drawn under each prompt type."""
        is_due = batch_idx == 0 and self.config.pinned_clips > 0 and self._by_prompts is not None
        return is_due and trainer is self._trainer and not _is_for_nobody(trainer)

    def take_prompts(
        self,
        prompt_type: str,
        loggers: Sequence[Any],
        batch: Batch,
        outs_per_frame: Sequence[FrameOutputs],
        moment: Moment,
    ) -> None:
        """Take a snapshot of a batch's first clip under a prompt type, for `log_prompts`.

        Args:
            prompt_type: Its prompts' type.
            loggers: Where the picture goes.
            batch: See `take_snapshot`.
            outs_per_frame: See `take_snapshot`.
            moment: See `take_snapshot`.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        if self.disabled or not (self._keeper.is_open or not self.troubles.are_useless(loggers)):
            return
        taken, self._by_prompts = self._by_prompts, None
        if taken is None:
            return
        with self._budget.spending():
            try:
                if not taken and not self._budget.allows():
                    self._drop_for_the_budget()
                    return
                if not taken and not self.worker.has_room():
                    self._drop_for_lack_of_room()
                    return
                # Of one window for each type less could be compared.
                options = dataclasses.replace(self._options(), zoom="off")
                taken[prompt_type] = take_snapshot(batch, outs_per_frame, moment, options)
                self._by_prompts = taken
            except Exception as error:
                self.troubles.failed("taking a snapshot", error)

    def log_pinned(self, remark: Optional[str] = None) -> None:
        """Draw the pinned clips that were held.

        Args:
            remark: What their sheets say is wrong; None: what was known when they were taken.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        held, self._held = self._held, []
        try:
            for taken in held if not self.disabled else ():
                if remark is not None:
                    for snapshot in taken.snapshots:
                        snapshot.moment = dataclasses.replace(snapshot.moment, remark=remark)
                self._submit(taken, is_after_validation=True)
        except Exception as error:
            self.troubles.failed("drawing the pinned clips", error)

    def log_prompts(self, loggers: Sequence[Any], step: int) -> None:
        """Draw the first pinned clip under each prompt type, one beside the other.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        taken, self._by_prompts = self._by_prompts, {}
        try:
            if self.disabled or not taken or len(taken) < 2:
                return
            publish = functools.partial(
                self._publisher.publish_prompts, self._keeper, list(loggers), taken, step
            )
            self._submit_after_validation(publish)
        except Exception as error:
            self.troubles.failed("drawing a clip under each prompt type", error)

    def log_worst(self, loggers: Sequence[Any], step: int) -> None:
        """Draw the clips of the lowest mean IoU since the last call, under ``<stage>/worst``.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        try:
            seen, self._worst = self._worst, {}
            if self.disabled:
                return
            for stage, worst in seen.items():
                publish = functools.partial(
                    self._publisher.publish_worst, self._keeper, list(loggers), stage, worst, step
                )
                num_pictures = min(self.config.worst_clips, worst.num_seen)
                self._submit_after_validation(publish, num_pictures)
        except Exception as error:
            self.troubles.failed("drawing the worst clips", error)

    def log_outcomes(self, loggers: Sequence[Any], findings: Findings, step: int) -> None:
        """Draw what a validation found of its objects, and keep it in the run book.

        ``val/outcomes`` has a strip per object, ``val/iou_by_distance`` IoU by frames since the
        last prompt.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        try:
            if self.disabled:
                return
            if self._keeper.is_open:
                store = functools.partial(self._keeper.store_outcomes, findings, step)
                self.worker.submit(store, num_pictures=0)
            drawings = [self._publisher.publish_strips]
            if findings.by_distance:  # where there are only images nothing is tracked
                drawings.append(self._publisher.publish_distances)
            for publish in drawings:
                task = functools.partial(publish, list(loggers), findings, step)
                self._submit_after_validation(task)
        except Exception as error:
            self.troubles.failed("drawing the outcomes", error)

    def log_diagnoses(
        self, loggers: Sequence[Any], diagnoses: Sequence[Diagnosis], step: int
    ) -> None:
        """Have the run book keep what was wrong at the validations so far, and log that of `step`.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        try:
            if self.disabled:
                return
            publish = functools.partial(
                self._publisher.publish_diagnoses,
                self._keeper,
                list(loggers),
                list(diagnoses),
                step,
            )
            self.worker.submit(publish, num_pictures=0)
        except Exception as error:
            self.troubles.failed("logging what the doctor says", error)

    def note_curves(self, trainer: Any, *, after_validation: bool = False) -> None:
        """Have the run book keep what reached the loggers since the last call.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        try:
            if self._keeper.note_curves(trainer, after_validation=after_validation):
                self.worker.submit(self._keeper.store_curves, num_pictures=0)
        except Exception as error:
            self._say_unread(error)

    def _say_unread(self, error: Exception) -> None:
        self.troubles.say_once(
            f"curves: {type(error).__name__}",
            "visualizations: the curves of the run book could not be read; training continues, and "
            "so do the pictures (reported once per kind of failure)",
            error,
        )

    def write_page(
        self,
        table: Optional[Path] = None,
        step: int = 0,
        baseline: Optional[Baseline] = None,
        *,
        at_the_end: bool = False,
    ) -> None:
        """Have the page of the run book written.

        Args:
            table: Where the metrics of all objects of a validation are listed.
            step: Optimizer steps taken.
            baseline: The run's first validation, where it is known.
            at_the_end: The run ends here, as far as anybody knows.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        if not self._keeper.is_open:
            return
        try:
            write = functools.partial(
                self._keeper.write_page, table, step, baseline, at_the_end=at_the_end
            )
            self.worker.submit(write, num_pictures=0)
        except Exception as error:
            self.troubles.failed("writing the run book", error)

    def forget_clips(self) -> None:
        """Forget what a validation that was interrupted has kept; pinned clips are drawn."""
        self.log_pinned()
        self._worst, self._by_prompts = {}, {}

    def begin_stage(self, stage: str) -> None:
        """Have the run book keep what belongs to it of what its trainer does further."""
        self._keeper = self._keeper.of_stage(stage)

    def begin_validation(self, trainer: Any) -> None:
        """Have the run book tell what a validation logs from what was logged before.

        Raises:
            VisualizationsError: Something failed and `strict` is on; nothing else is raised.
        """
        try:
            self._keeper.begin_validation(trainer)
        except Exception as error:
            self._say_unread(error)

    def raise_what_failed(self) -> None:
        """Raise what failed in the background since the last call, where `strict` is on.

        Raises:
            VisualizationsError: Something did.
        """
        self.troubles.raise_what_failed()

    def say_what_failed(self) -> None:
        """Warn of what `raise_what_failed` would raise, and forget it."""
        self.troubles.say_what_failed()

    def flush(self, page_takers: Sequence[Any] = ()) -> None:
        """Wait until the pictures taken are logged, at most `flush_timeout_s` seconds.

        Never raises an Exception: it runs while training ends, or fails for a reason of its own.
        With `strict`, `raise_what_failed` raises what went wrong.

        Args:
            page_takers: Loggers that get the run book's page, where they show one.
        """
        try:
            self.cadence.begin_anew()
            self.log_pinned()
            self.write_page(at_the_end=True)
            if self._keeper.is_open and page_takers:
                log_page = functools.partial(self._keeper.log_page, list(page_takers))
                self.worker.submit(log_page, num_pictures=0)
            given_up = self.worker.drain(self.config.flush_timeout_s)
            if given_up:
                self._say_what_was_given_up(given_up)
        except Exception as error:
            self.troubles.failed_in_background("waiting for the pictures", error)

    def _say_what_was_given_up(self, num_pictures: int) -> None:
        pictures = counted(
            num_pictures, "picture was dropped: it was", "pictures were dropped: they were"
        )
        said = (
            f"visualizations: {pictures} not logged within "
            f"visualizations.flush_timeout_s={self.config.flush_timeout_s:g}"
        )
        if self.config.strict:
            raise VisualizationsError(f"{said} (visualizations.strict=true)")
        log.warning(said)

    def _take_pictures(
        self,
        event: Event,
        loggers: list[Any],
        take: Callable[..., Snapshot],
        holds_pinned: bool,
    ) -> None:
        started = time.perf_counter()
        if not self._budget.allows():
            self._drop_for_the_budget()
            return
        if not self.worker.has_room():
            self._drop_for_lack_of_room()
            return
        snapshots = self._snapshots(event, loggers, take)
        self._say_what_is_missing(snapshots[0])
        blocked_ms = (time.perf_counter() - started) * 1e3
        taken = _Taken(event, loggers, snapshots, blocked_ms)
        if holds_pinned and event.num_pinned and len(self._held) < self.config.max_pending:
            self._held.append(taken)
        else:
            self._submit(taken)

    def _submit(self, taken: _Taken, is_after_validation: bool = False) -> None:
        publish = functools.partial(
            self._publisher.publish,
            self._keeper,
            taken.loggers,
            taken.snapshots,
            taken.event,
            taken.blocked_ms,
        )
        num_pictures = sum(len(snapshot.videos) for snapshot in taken.snapshots)
        if is_after_validation:
            self._submit_after_validation(publish, num_pictures)
        else:
            self.worker.submit(publish, num_pictures=num_pictures)

    def _submit_after_validation(self, publish: Callable[[], None], num_pictures: int = 1) -> None:
        """Have drawn what comes once per validation, which has further room; say if not."""
        if not self.worker.submit(publish, num_pictures=num_pictures, even_if_full=True):
            self._drop_for_lack_of_room()

    def _snapshots(
        self, event: Event, loggers: list[Any], take: Callable[..., Snapshot]
    ) -> list[Snapshot]:
        """Take snapshots of an event's clips; those of pinned ones may keep more frames."""
        is_animated = self._is_animated(event, loggers)
        keeps_more = self._keeper.is_open and self._budget.allows(FURTHER_PART) and not is_animated
        num_pinned = event.num_pinned if keeps_more else 0
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
        if snapshot.fault is not None:
            self.troubles.say_once(
                "obj_to_cat", f"visualizations: sheets show no prompts: {snapshot.fault}"
            )
        if snapshot.sizes_unread:
            self.troubles.say_once(
                "sizes",
                "visualizations: panels have the aspect of the model's frames: "
                "metadata.frame_orig_size lies on a device, which would have to be waited for; "
                "keep it as original_sizes of the datamodule or the module before the batch goes "
                'there (README, "Names"), or set visualizations.aspect=model',
            )
        reduced = snapshot.reduced
        if reduced.identifiers.size == 0 and reduced.row_videos.size > 0:
            self.troubles.say_once(
                "identifiers",
                "visualizations: the batch has no metadata.unique_objects_identifier [T, O, 3] "
                "(video, object, frame): sheets number videos, objects and frames by position; "
                "pass SAM 2's BatchedVideoDatapoint to have their own ids",
            )

    def _take_candidates(
        self,
        stage: str,
        num_clips: int,
        take: Callable[..., Snapshot],
        failure_shares: Optional[Sequence[float]],
    ) -> None:
        """Have all clips of a batch ranked, unless that would cost the pictures' time or memory."""
        worst = self._worst.setdefault(stage, WorstClips(self.config.worst_clips))
        worst.num_seen += num_clips
        has_room = worst.has_room() and self.worker.has_room()
        if not (has_room and self._budget.allows(SCORING_PART)):
            return
        started = time.perf_counter()
        worst_by = self.config.worst_by
        if worst_by != "iou" and failure_shares is None:
            self.troubles.say_once(
                "worst_by",
                f"visualizations: {stage}/worst has the clips of lowest mean IoU: "
                f"visualizations.worst_by={worst_by} needs self.failure_shares of the module, and "
                "there is none",
            )
        options = self._options(measure_all_frames=True)
        snapshot = take(videos=range(num_clips), options=options)
        worst.add(snapshot, None if worst_by == "iou" else failure_shares)
        blocked_ms = (time.perf_counter() - started) * 1e3
        rank = functools.partial(self._publisher.rank, worst, blocked_ms)
        self.worker.submit(rank, num_pictures=0)

    def _options(self, **frames: Any) -> SnapshotOptions:
        config = self.config
        return SnapshotOptions(
            max_frames=config.max_frames,
            frame_stride=config.frame_stride,
            num_categories=self.num_categories,
            panel_size=config.panel_size,
            aspect=config.aspect,
            zoom=config.zoom,
            **frames,
        )

    def _is_animated(self, event: Event, loggers: list[Any]) -> bool:
        if not self.config.animation or event.stage == TRAIN:
            return False
        if any(takes_gifs(logger) for logger in loggers):
            return True
        self.troubles.say_once(
            "gif", "visualizations: no logger accepts GIFs; animations are skipped"
        )
        return False

    def _drop_for_the_budget(self) -> None:
        share, allowed = self._budget.share(), self.config.max_overhead
        self.troubles.dropped(
            "budget",
            f"visualizations: taking pictures blocked training for {share:.1%} of the time, "
            "more than "
            f"visualizations.max_overhead={allowed:g}; events are skipped until the share is "
            "below it",
        )

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


def _room(config: VisualizationsConfig) -> tuple[int, int]:
    """Return how many tasks may wait, and how many more of those that end a validation.

    Of pinned clips no more are held until then than may wait.
    """
    return config.max_pending, config.max_pending + _PER_VALIDATION


def _is_for_nobody(trainer: Trainer) -> bool:
    """Return whether Lightning's Tuner tries things out, with loggers that log nothing.

    ``fast_dev_run`` has such loggers too, but there people try out what a run does.
    """
    loggers = trainer.loggers
    return bool(
        loggers
        and goes_nowhere(loggers[0])  # asked at every step: most loggers end it here
        and not getattr(trainer, "fast_dev_run", False)
        and all(goes_nowhere(logger) for logger in loggers)
    )
