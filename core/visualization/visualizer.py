"""From a batch that is due to the dashboard: at what cost, and what happens when it fails.

The training thread takes a snapshot and goes on; everything after it runs on one background worker.
Nothing here raises into training.
"""

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..config import VisualizationsConfig
from .cadence import Cadence, Event
from .clip import Clip
from .drawing.sheet import render_animation
from .images import log_gif, log_images, takes_gifs
from .publisher import draw_sheets
from .snapshot import Moment, Snapshot, SnapshotOptions, take_snapshot
from .worker import BackgroundWorker
from .worst import WorstClips

log = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 5
# Blocked time is judged as a share of wall time only beyond this much in all: time counts from the
# run's first event, which is the slowest, and the next ones would be measured against almost none.
GRACE_S = 0.25
# Looking for the worst clips ends at this part of the budget: the rest is for pictures.
SCORING_PART = 0.5


@dataclass
class _Cost:
    """What was spent since the last values on the dashboard, and the steps that have one."""

    blocked_ms: float = 0.0
    render_ms: float = 0.0
    steps: set[int] = field(default_factory=set)


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
        self.cadence = Cadence(config)
        self.num_categories = config.num_categories or num_categories
        self.dropped = 0
        self.disabled = False
        self._worker = BackgroundWorker(config.max_pending)
        self._started = time.perf_counter()
        self._blocked_s = 0.0
        self._said: set[str] = set()
        self._failures_in_a_row = 0
        self._trainer: Any = None
        self._loggers: list[Any] = []
        self._without_images: Optional[list[Any]] = None
        self._num_used: Counter[tuple[str, int]] = Counter()
        self._cost = _Cost()  # the worker's alone
        self._worst = WorstClips(config.worst_clips)
        self._lock = threading.Lock()  # of what the training thread and the worker both write

    def __deepcopy__(self, memo: dict) -> "Visualizer":
        """Copies of a module (weight averaging, spawned processes) start with an empty one."""
        return Visualizer(self.config, self.num_categories)

    def __reduce__(self) -> tuple:
        """See `__deepcopy__`: threads cannot be copied."""
        return Visualizer, (self.config, self.num_categories)

    def attach(self, trainer: Any) -> None:
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
            self._num_used, self._cost = Counter(), _Cost()
        self._loggers = list(trainer.loggers)
        self.disabled, self.dropped = False, 0
        self._said, self._failures_in_a_row = set(), 0
        self._started, self._blocked_s = time.perf_counter(), 0.0
        self.forget_clips()
        if isinstance(getattr(trainer, "callbacks", None), list):
            trainer.callbacks.append(FlushCallback(self))
        let_python_handle_interrupts()

    def take(
        self,
        event: Event,
        loggers: Sequence[Any],
        batch: Any,
        outs_per_frame: Sequence[dict[str, Any]],
        **moment: Any,
    ) -> None:
        """Take snapshots of a batch and have them drawn; never raises an Exception.

        Args:
            event: What `Cadence.due` returned.
            loggers: Where the pictures go.
            batch: See `take_snapshot`.
            outs_per_frame: See `take_snapshot`.
            **moment: ``epoch``, ``obj_to_cat``, ``clip_name``, ``object_names``,
                ``category_names``.
        """
        loggers = list(loggers)
        if self.disabled or loggers == self._without_images:
            return
        started = time.perf_counter()
        try:
            snapshot = functools.partial(
                self._snapshot, batch, outs_per_frame, stage=event.stage, step=event.step, **moment
            )
            if event.stage == "val":
                self.cadence.note_batch_size(event, batch.img_batch.shape[1])
            if event.num_videos > 0:
                self._take_pictures(event, loggers, snapshot)
            if event.is_scored:
                self._take_candidates(batch.img_batch.shape[1], snapshot)
        except Exception as error:
            self.failed("taking a snapshot", error)
        finally:
            self._blocked_s += time.perf_counter() - started

    def log_worst(self, loggers: Sequence[Any], step: int) -> None:
        """Draw the clips of the lowest mean IoU since the last call, under ``val/worst``.

        Never raises an Exception.
        """
        try:
            worst = self._worst
            self.forget_clips()
            if self.disabled or not worst.num_seen:
                return
            key = self._key("val/worst", step)
            draw = functools.partial(self._draw_worst, list(loggers), key, worst, step)
            taken = self._worker.submit(
                lambda: self._on_worker("drawing the worst clips", draw),
                num_pictures=min(self.config.worst_clips, worst.num_seen),
                even_if_full=True,
            )
            if not taken:
                self._drop_for_lack_of_room()
        except Exception as error:
            self.failed("drawing the worst clips", error)

    def forget_clips(self) -> None:
        """Start looking for the worst clips anew."""
        self._worst = WorstClips(self.config.worst_clips)

    def flush(self) -> None:
        """Wait until the pictures taken are logged, at most `flush_timeout_s` seconds.

        Never raises an Exception: it runs while training ends, or fails for a reason of its own.
        """
        try:
            self.cadence.begin_anew()
            given_up = self._worker.drain(self.config.flush_timeout_s)
            if given_up:
                log.warning(
                    "visualizations: %d pictures were given up, they were not drawn and logged "
                    "within visualizations.flush_timeout_s=%g",
                    given_up,
                    self.config.flush_timeout_s,
                )
        except Exception as error:
            self.failed("waiting for the pictures", error)

    def _take_pictures(self, event: Event, loggers: list, take: Callable[..., Snapshot]) -> None:
        started = time.perf_counter()
        if not self._within_budget():
            self.dropped += 1
            share = self._blocked_s / max(started - self._started, 1e-9)
            self._say_once(
                "budget",
                f"visualizations: taking pictures blocked {share:.1%} of the time, more than "
                f"visualizations.max_overhead={self.config.max_overhead:g}; events are skipped "
                "until it is less",
            )
            return
        if not self._worker.has_room():
            self._drop_for_lack_of_room()
            return
        snapshot = take(event.num_videos, draw_all_frames=self._is_animated(event, loggers))
        key = self._key(f"{event.stage}/composites", event.step, event.batch_idx)
        blocked_ms = (time.perf_counter() - started) * 1e3
        draw = functools.partial(self._draw, loggers, key, snapshot, blocked_ms)
        self._worker.submit(
            lambda: self._on_worker("drawing or logging", draw), num_pictures=len(snapshot.videos)
        )

    def _take_candidates(self, num_clips: int, take: Callable[..., Snapshot]) -> None:
        """Have all clips of a batch ranked, unless that would cost the pictures' time or memory."""
        worst = self._worst
        worst.num_seen += num_clips
        if not (self._within_budget(SCORING_PART) and worst.has_room()):
            return
        started = time.perf_counter()
        worst.add(take(num_clips, measure_all_frames=True))
        blocked_ms = (time.perf_counter() - started) * 1e3

        def rank() -> None:
            self._cost.blocked_ms += blocked_ms
            worst.rank()

        self._worker.submit(
            lambda: self._on_worker("looking for the worst clips", rank, is_picture=False),
            num_pictures=0,
        )

    def _snapshot(
        self,
        batch: Any,
        outs_per_frame: Sequence[dict[str, Any]],
        num_videos: int,
        *,
        draw_all_frames: bool = False,
        measure_all_frames: bool = False,
        obj_to_cat: Optional[Any] = None,
        **moment: Any,
    ) -> Snapshot:
        config = self.config
        options = SnapshotOptions(
            max_frames=config.max_frames,
            frame_stride=config.frame_stride,
            num_categories=self.num_categories,
            panel_size=config.panel_size,
            draw_all_frames=draw_all_frames,
            measure_all_frames=measure_all_frames,
        )
        return take_snapshot(
            batch, outs_per_frame, Moment(**moment), options, range(num_videos), obj_to_cat
        )

    def _within_budget(self, part: float = 1.0) -> bool:
        """Return whether what blocked training so far is within a part of what it may."""
        allowed_s = self.config.max_overhead * (time.perf_counter() - self._started)
        return self._blocked_s < part * GRACE_S or self._blocked_s <= part * allowed_s

    def _drop_for_lack_of_room(self) -> None:
        self.dropped += 1
        if self._worker.is_stuck():
            self._say_once(
                "stuck",
                "visualizations: a picture that was given up is still being drawn or logged; "
                "further ones are dropped until that ends",
            )
        else:
            self._say_once(
                "full",
                f"visualizations: {self._worker.num_waiting_pictures()} pictures wait to be drawn "
                f"or logged already, visualizations.max_pending={self.config.max_pending} events "
                "may; further ones are dropped until there is room",
            )

    def _is_animated(self, event: Event, loggers: list) -> bool:
        if not (self.config.animation and event.stage == "val"):
            return False
        if any(takes_gifs(logger) for logger in loggers):
            return True
        self._say_once("gif", "visualizations: no logger takes GIFs; animations are skipped")
        return False

    def _key(self, key: str, step: int, batch_idx: int = 0) -> str:
        """Give every picture of one step a key of its own: dashboards drop a second one."""
        if batch_idx:
            key = f"{key}_batch{batch_idx}"
        self._num_used[key, step] += 1
        count = self._num_used[key, step]
        return key if count == 1 else f"{key}_{count}"

    def _on_worker(self, doing: str, task: Callable[[], None], is_picture: bool = True) -> None:
        """Run a task of the worker's; nothing that it raises ends the thread."""
        if self.disabled:
            return
        try:
            task()
            if is_picture:
                with self._lock:
                    self._failures_in_a_row = 0
        except BaseException as error:
            self.failed(doing, error)

    def _draw(self, loggers: list, key: str, snapshot: Snapshot, blocked_ms: float) -> None:
        """Render and log one event, on the worker."""
        started = time.perf_counter()
        clips = snapshot.clips()
        takers = self._log_sheets(loggers, key, clips, snapshot.moment.step)
        self._log_cost(takers, snapshot.moment.step, blocked_ms, started)
        if snapshot.options.draw_all_frames:
            self._log_animations(takers, key, clips, snapshot.moment.step)

    def _draw_worst(self, loggers: list, key: str, worst: WorstClips, step: int) -> None:
        """Render and log the worst clips of a validation run, on the worker."""
        started = time.perf_counter()
        worst.rank()
        if worst.num_ranked < worst.num_seen:
            self._say_once(
                "worst",
                f"visualizations: val/worst is the worst of {worst.num_ranked} of the "
                f"{worst.num_seen} clips validated; the others were not looked at, to stay within "
                f"visualizations.max_overhead={self.config.max_overhead:g} or because drawing "
                "fell behind",
            )
        clips = worst.clips()
        if clips:
            takers = self._log_sheets(loggers, key, clips, step)
            self._log_cost(takers, step, 0.0, started)

    def _log_sheets(self, loggers: list, key: str, clips: list[Clip], step: int) -> list[Any]:
        """Draw one sheet per clip and return the loggers that took them."""
        drawn = [clip.select(self._sheet_frames(clip)) for clip in clips]
        sheets, captions = draw_sheets(drawn, self.config.panel_size)
        takers, failures = [], []
        for logger in loggers:
            try:
                if log_images(logger, key, sheets, step, captions):
                    takers.append(logger)
            except Exception as error:
                failures.append((type(logger).__name__, error))
        if failures and not takers:
            raise failures[0][1]
        for name, error in failures:
            self._say_once(
                f"{name}: {type(error).__name__}",
                f"visualizations: {name} did not take the pictures, other loggers did",
                error,
            )
        if not takers:
            self._say_once(
                "no logger", "visualizations: no logger takes images; no pictures are drawn"
            )
            self._without_images = loggers
        return takers

    def _sheet_frames(self, clip: Clip) -> list[int]:
        config = self.config
        wanted = range(0, config.frame_stride * config.max_frames, config.frame_stride)
        return [i for i, frame in enumerate(clip.frames) if frame.position in wanted]

    def _log_cost(self, loggers: list, step: int, blocked_ms: float, started: float) -> None:
        """Log what was spent since the last values; a second value of one step would be lost."""
        cost = self._cost
        cost.blocked_ms += blocked_ms
        cost.render_ms += (time.perf_counter() - started) * 1e3
        if step in cost.steps or not loggers:
            return
        scalars = {
            "visualizations/blocked_ms": cost.blocked_ms,
            "visualizations/render_ms": cost.render_ms,
            "visualizations/dropped": float(self.dropped),
        }
        cost.steps.add(step)
        cost.blocked_ms = cost.render_ms = 0.0
        # Not to loggers without images: CSV's is not made to be called from two threads.
        for logger in loggers:
            if hasattr(logger, "log_metrics"):
                logger.log_metrics(scalars, step=step)

    def _log_animations(self, loggers: list, key: str, clips: list[Clip], step: int) -> None:
        loggers = [logger for logger in loggers if takes_gifs(logger)]
        if not loggers:
            return
        for index, clip in enumerate(clips):
            name = key.replace("composites", "animation") + (f"_clip{index}" if index else "")
            frames = render_animation(clip, self.config.panel_size)
            if not log_gif(loggers, name, frames, step, caption=clip.name):
                self._say_once(
                    "large gif",
                    f"visualizations: {name} is left out, SwanLab takes no file over 10 MiB; "
                    f"smaller than visualizations.panel_size={self.config.panel_size} may fit",
                )

    def failed(self, doing: str, error: BaseException) -> None:
        """Count a failure, say each kind once, and stop drawing after five in a row."""
        with self._lock:
            self._failures_in_a_row += 1
            turn_off = self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW and not self.disabled
            self.disabled = self.disabled or turn_off
        self._say_once(
            f"{doing}: {type(error).__name__}",
            f"visualizations: {doing} failed, training goes on; said once per kind of failure",
            error,
        )
        if turn_off:
            log.warning(
                "visualizations: %d failures in a row, no more pictures in this run",
                MAX_FAILURES_IN_A_ROW,
            )

    def _say_once(self, kind: str, message: str, error: Optional[BaseException] = None) -> None:
        with self._lock:
            if kind in self._said:
                return
            self._said.add(kind)
        log.warning(message, exc_info=error)
