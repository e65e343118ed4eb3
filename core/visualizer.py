"""From the hook to the dashboard: when to draw, at what cost, and what happens when it fails.

The training thread takes a snapshot and goes on; everything after it runs on one background worker.
Nothing here raises into training.
"""

import functools
import heapq
import itertools
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Optional

from lightning.pytorch import Callback

from core.config import VisualizationsConfig
from core.render import render_animation
from core.snapshot import Clip, Snapshot, SnapshotOptions, take_snapshot
from core.utils import draw_sheets, log_gif, log_images
from core.worker import BackgroundWorker

log = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 5
# The share of blocked time is judged once this much has been spent in all: the first events of a
# short run would otherwise be measured against no time at all.
GRACE_S = 1.0


class Visualizer:
    """Draws the events of one module in the background.

    Args:
        config: Its section of the configuration.
        num_categories: Categories drawn when the section leaves it open; None: the video's objects.
    """

    def __init__(self, config: VisualizationsConfig, num_categories: Optional[int] = None) -> None:
        self.config = config
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
        self._used: dict[str, tuple[int, int]] = {}
        self._last_train_step = -1
        self._val_batch_size = 1
        self._worst: list[tuple[float, int, Clip]] = []
        self._unscored: list[Snapshot] = []
        self._order = itertools.count()
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
        self._trainer = trainer
        if self._loggers != trainer.loggers:
            self._loggers = list(trainer.loggers)
            self._used = {}
        self.disabled, self.dropped = False, 0
        self._said, self._failures_in_a_row = set(), 0
        self._started, self._blocked_s = time.perf_counter(), 0.0
        self.forget_clips()
        if isinstance(getattr(trainer, "callbacks", None), list):
            trainer.callbacks.append(FlushCallback(self))
        _let_python_handle_interrupts()

    def due_videos(self, stage: str, step: int, batch_idx: int, num_videos: int) -> list[int]:
        """Return which videos of a batch are to be drawn now; most of the time none.

        Training: the first `max_videos` once per optimizer step that `every_n_steps` divides.
        Validation: the same on the first batch and every `every_n_steps` batches after it, and the
        pinned clips, which are the first of the validation set.
        """
        config = self.config
        if stage == "train":
            due = step % config.every_n_steps == 0 and step != self._last_train_step
            self._last_train_step = step if due else self._last_train_step
            return list(range(min(config.max_videos, num_videos))) if due else []
        if batch_idx == 0:
            self._val_batch_size = num_videos
        count = config.max_videos if batch_idx % config.every_n_steps == 0 else 0
        pinned = config.pinned_clips - batch_idx * self._val_batch_size
        return list(range(min(max(count, pinned), num_videos)))

    def scores_every_clip(self, stage: str) -> bool:
        """Return whether the worst clips are looked for."""
        return stage == "val" and self.config.worst_clips > 0

    def take(
        self,
        loggers: Sequence[Any],
        batch: Any,
        outs_per_frame: Sequence[dict[str, Any]],
        *,
        stage: str,
        step: int,
        epoch: int,
        batch_idx: int,
        videos: list[int],
        **names: Any,
    ) -> None:
        """Take a snapshot of the videos and have it drawn; never raises an Exception.

        Args:
            loggers: Where the pictures go.
            batch: See `take_snapshot`.
            outs_per_frame: See `take_snapshot`.
            stage: ``train`` or ``val``.
            step: Optimizer steps taken.
            epoch: Epoch shown in the header.
            batch_idx: Position of the batch in its epoch or validation run.
            videos: What `due_videos` returned.
            **names: ``obj_to_cat``, ``clip_name``, ``object_names``, ``category_names``.
        """
        if self.disabled or list(loggers) == self._without_images:
            return
        started = time.perf_counter()
        try:
            if not self._within_budget(started):
                self.dropped += 1
                return
            moment = dict(stage=stage, step=step, epoch=epoch, **names)
            if self.scores_every_clip(stage):
                everything = range(batch.img_batch.shape[1])
                candidates = self._snapshot(
                    batch, outs_per_frame, everything, moment, measure_all_frames=True
                )
                self._offer(candidates)
            if videos and not self._worker.has_room():
                self.dropped += 1
                self._say_once(
                    "full",
                    f"visualizations: {self.config.max_pending} pictures wait to be drawn or "
                    "logged already; further ones are dropped until there is room",
                )
            elif videos:
                animate = self.config.animation and stage == "val"
                snapshot = self._snapshot(
                    batch, outs_per_frame, videos, moment, draw_all_frames=animate
                )
                key = self._key(f"{stage}/composites", step, batch_idx if stage == "val" else 0)
                blocked_ms = (time.perf_counter() - started) * 1e3
                targets = list(loggers)
                draw = functools.partial(self._draw, targets, key, snapshot, blocked_ms)
                self._worker.submit(lambda: self._on_worker("drawing or logging", draw))
        except Exception as error:
            self.failed("taking a snapshot", error)
        finally:
            self._blocked_s += time.perf_counter() - started

    def log_worst(self, loggers: Sequence[Any], step: int) -> None:
        """Draw the clips of the lowest mean IoU since the last call, under ``val/worst``."""
        unscored, worst = self._unscored, self._worst
        self.forget_clips()
        if self.disabled or not (unscored or worst):
            return
        targets, key = list(loggers), self._key("val/worst", step, 0)

        def draw() -> None:
            for snapshot in unscored:
                self._rank(snapshot, worst)
            clips = [clip for _, _, clip in sorted(worst, reverse=True)]
            self._log_sheets(targets, key, clips, step)

        try:
            self._worker.submit(
                lambda: self._on_worker("drawing the worst clips", draw), even_if_full=True
            )
        except Exception as error:
            self.failed("drawing the worst clips", error)

    def forget_clips(self) -> None:
        """Start looking for the worst clips anew."""
        self._unscored, self._worst = [], []

    def flush(self) -> None:
        """Wait until the pictures taken are logged, at most `flush_timeout_s` seconds."""
        self._last_train_step = -1  # the next run may draw the same step anew
        given_up = self._worker.drain(self.config.flush_timeout_s)
        if given_up:
            log.warning(
                "visualizations: %d pictures were given up, the logger did not take them within "
                "visualizations.flush_timeout_s=%g",
                given_up,
                self.config.flush_timeout_s,
            )

    def _snapshot(
        self,
        batch: Any,
        outs_per_frame: Sequence[dict[str, Any]],
        videos: Sequence[int],
        moment: dict[str, Any],
        **which_frames: bool,
    ) -> Snapshot:
        config = self.config
        options = SnapshotOptions(
            max_frames=config.max_frames,
            frame_stride=config.frame_stride,
            num_categories=self.num_categories,
            panel_size=config.panel_size,
            **which_frames,
        )
        return take_snapshot(batch, outs_per_frame, videos=videos, options=options, **moment)

    def _within_budget(self, now: float) -> bool:
        if self._blocked_s < GRACE_S:
            return True
        share = self._blocked_s / max(now - self._started, 1e-9)
        if share <= self.config.max_overhead:
            return True
        self._say_once(
            "budget",
            f"visualizations: taking pictures blocked {share:.1%} of the time, more than "
            f"visualizations.max_overhead={self.config.max_overhead:g}; events are skipped until "
            "it is less",
        )
        return False

    def _key(self, key: str, step: int, batch_idx: int) -> str:
        """Give every picture of one step a key of its own: dashboards drop a second one."""
        if batch_idx:
            key = f"{key}_batch{batch_idx}"
        last, count = self._used.get(key, (-1, 0))
        count = count + 1 if last == step else 1
        self._used[key] = (step, count)
        return key if count == 1 else f"{key}_{count}"

    def _draw(self, loggers: list, key: str, snapshot: Snapshot, blocked_ms: float) -> None:
        """Render and log one event, on the worker."""
        started = time.perf_counter()
        clips = snapshot.clips()
        takers = self._log_sheets(loggers, key, clips, snapshot.step)
        scalars = {
            "visualizations/blocked_ms": blocked_ms,
            "visualizations/render_ms": (time.perf_counter() - started) * 1e3,
            "visualizations/dropped": float(self.dropped),
        }
        # Not to loggers without images: CSV's is not made to be called from two threads.
        for logger in takers:
            if hasattr(logger, "log_metrics"):
                logger.log_metrics(scalars, step=snapshot.step)
        if takers and self.config.animation and snapshot.stage == "val":
            self._log_animations(takers, key, clips, snapshot.step)

    def _on_worker(self, doing: str, draw: Callable[[], None]) -> None:
        """Run a task of the worker's; nothing that it raises ends the thread."""
        if self.disabled:
            return
        try:
            draw()
            with self._lock:
                self._failures_in_a_row = 0
        except BaseException as error:
            self.failed(doing, error)

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
        return [i for i, t in enumerate(clip.frame_positions) if t in wanted]

    def _log_animations(self, loggers: list, key: str, clips: list[Clip], step: int) -> None:
        for index, clip in enumerate(clips):
            name = key.replace("composites", "animation") + (f"_{index}" if index else "")
            frames = render_animation(clip, self.config.panel_size)
            if not log_gif(loggers, name, frames, step, caption=clip.name):
                self._say_once(
                    "gif", "visualizations: no logger takes GIFs; animations are skipped"
                )

    def _offer(self, snapshot: Snapshot) -> None:
        """Keep a validation batch as candidates for the worst clips.

        Scores are on the CPU already, or will be once the device has copied them: a few snapshots
        wait for that, the older ones are ranked and all but the worst let go.
        """
        self._unscored.append(snapshot)
        ready, self._unscored = self._unscored[:-2], self._unscored[-2:]
        for older in ready:
            self._rank(older, self._worst)

    def _rank(self, snapshot: Snapshot, worst: list[tuple[float, int, Clip]]) -> None:
        for clip in snapshot.clips():
            if math.isnan(clip.mean_iou):
                continue
            heapq.heappush(worst, (-clip.mean_iou, next(self._order), clip))
            if len(worst) > self.config.worst_clips:
                heapq.heappop(worst)

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


class FlushCallback(Callback):
    """Has the pictures of a visualizer logged before a run ends, however it ends.

    It is added to the trainer by the first batch, so that no module needs to call a hook of ours.
    """

    def __init__(self, visualizer: Visualizer) -> None:
        self._visualizer = visualizer

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget the clips of a validation run that was interrupted."""
        self._visualizer.forget_clips()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the worst clips of the validation run."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._visualizer.log_worst(trainer.loggers, trainer.global_step)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Flush before the loggers are closed."""
        self._visualizer.flush()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Flush what was taken before the failure or interrupt."""
        self._visualizer.flush()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Flush after runs that have no `on_fit_end`, such as ``trainer.validate``."""
        self._visualizer.flush()


def _let_python_handle_interrupts() -> None:
    # SwanLab's handler closes its run before Lightning hears of the interrupt, and with it the
    # pictures still waiting. SwanLab closes the run all the same, when Lightning finalizes it.
    handler: Optional[Callable] = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is threading.main_thread()
        and callable(handler)
        and (getattr(handler, "__module__", "") or "").startswith("swanlab")
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
