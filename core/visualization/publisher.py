"""From snapshots to pictures on dashboards: what the worker does."""

import dataclasses
import functools
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import VisualizationsConfig
from ..metrics.doctor import Diagnosis
from ..metrics.outcomes import Findings
from ..words import counted
from .cadence import TRAIN, Event
from .clip import Clip
from .drawing.distances import render_distances
from .drawing.sheet import mean_iou_words, render_animation, render_by_prompts, render_sheet
from .drawing.strips import render_strips
from .images import log_gif, log_images, log_text, takes_gifs
from .keeper import Keeper
from .limits import Troubles
from .record import PROMPTS, WORST
from .snapshot import Snapshot
from .worst import WorstClips


@dataclass
class _Cost:
    """What was spent since the last values on the dashboard."""

    blocked_ms: float = 0.0
    render_ms: float = 0.0


@dataclass
class _Used:
    """What a logger has: how often it got a key at a step, and the steps with a cost."""

    logger: Callable[[], Any]  # a weak reference
    times: Counter[tuple[str, int]] = field(default_factory=Counter)
    cost_steps: set[int] = field(default_factory=set)


class Publisher:
    """Draws snapshots and logs the sheets; every method runs on the worker, and none raises.

    It remembers which keys and steps each logger got: they are used up only where they were logged.

    Args:
        config: Its section of the configuration; another one may take its place.
        troubles: Where failures are told.
    """

    def __init__(self, config: VisualizationsConfig, troubles: Troubles) -> None:
        self.config = config
        self._troubles = troubles
        self._used: dict[int, _Used] = {}  # by id of the logger
        self._cost = _Cost()

    def publish(
        self,
        keeper: Keeper,
        loggers: list[Any],
        snapshots: Sequence[Snapshot],
        event: Event,
        blocked_ms: float,
    ) -> None:
        """Store, draw and log one event.

        Args:
            keeper: Of the run's book.
            loggers: Where the pictures go.
            snapshots: What they show; pinned clips come first.
            event: What they were taken for.
            blocked_ms: For how long taking them blocked training.
        """
        task = functools.partial(self._publish, keeper, loggers, snapshots, event, blocked_ms)
        self._guard("drawing or logging", task)

    def publish_worst(
        self, keeper: Keeper, loggers: list[Any], stage: str, worst: WorstClips, step: int
    ) -> None:
        """Store, draw and log the worst clips of a validation run."""
        task = functools.partial(self._publish_worst, keeper, loggers, stage, worst, step)
        self._guard("drawing the worst clips", task)

    def publish_prompts(
        self, keeper: Keeper, loggers: list[Any], taken: Mapping[str, Snapshot], step: int
    ) -> None:
        """Draw and log a clip under each prompt type; store it under all but the first."""
        task = functools.partial(self._publish_prompts, keeper, loggers, taken, step)
        self._guard("drawing a clip under each prompt type", task)

    def publish_strips(self, loggers: list[Any], findings: Findings, step: int) -> None:
        """Draw and log what became of each object of a validation."""
        caption = f"what became of each object · val · step {step}"
        draw = functools.partial(render_strips, findings.strips, f"val · step {step}")
        self._publish_drawing(loggers, "val/outcomes", draw, step, caption)

    def publish_distances(self, loggers: list[Any], findings: Findings, step: int) -> None:
        """Draw and log IoU by frames since the last prompt."""
        caption = f"IoU by frames since the last prompt · val · step {step}"
        draw = functools.partial(render_distances, findings, f"val · step {step}")
        self._publish_drawing(loggers, "val/iou_by_distance", draw, step, caption)

    def _publish_drawing(
        self, loggers: list[Any], key: str, draw: Callable[[], np.ndarray], step: int, caption: str
    ) -> None:
        def publish() -> None:
            if loggers and not self._troubles.are_useless(loggers):
                unused = key + self._unused(loggers, key, step)
                self._log_pictures(loggers, unused, [draw()], step, [caption], 1)

        self._guard(f"drawing {key}", publish)

    def publish_diagnoses(
        self, keeper: Keeper, loggers: list[Any], diagnoses: Sequence[Diagnosis], step: int
    ) -> None:
        """Store what was wrong at each validation, and log what was at `step` as a text."""

        def publish() -> None:
            keeper.store_diagnoses(diagnoses, step)
            if not diagnoses or diagnoses[-1].step != step:
                return
            key = "doctor" + self._unused(loggers, "doctor", step)
            failures = []
            for logger in loggers:
                try:
                    log_text(logger, key, diagnoses[-1].as_text(), step)
                except Exception as error:
                    failures.append(error)
            if failures:
                raise failures[0]

        self._guard("logging what the doctor says", publish, is_picture=False)

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
            self._troubles.failed_in_background(doing, error)

    def _publish(
        self,
        keeper: Keeper,
        loggers: list[Any],
        snapshots: Sequence[Snapshot],
        event: Event,
        blocked_ms: float,
    ) -> None:
        started = time.perf_counter()
        stage, step = event.stage, event.step
        which = self._unused(loggers, f"{stage}/composites", step, event.batch_idx)
        clips = [clip for snapshot in snapshots for clip in snapshot.clips()]
        keeper.store(clips, stage, event.num_pinned)
        key = f"{stage}/composites{which}"
        takers = self._draw(keeper, loggers, key, clips, step, self._num_slots(stage))
        self._log_cost(takers, step, blocked_ms, started)
        keeper.store_costs(step, blocked_ms, (time.perf_counter() - started) * 1e3)
        if snapshots[0].options.draw_all_frames:
            self._log_animations(takers, f"{stage}/animation{which}", clips, step)

    def _draw(
        self,
        keeper: Keeper,
        loggers: list[Any],
        key: str,
        clips: list[Clip],
        step: int,
        num_slots: int,
    ) -> list[Any]:
        """Draw sheets, unless only the run book asked for pictures; return who took them."""
        if keeper.is_open and (not loggers or self._troubles.are_useless(loggers)):
            return []
        takers = self._log_sheets(loggers, key, clips, step, num_slots)
        if not takers:
            self._troubles.take_no_images(loggers)
            if not keeper.is_open:
                self._troubles.say_once(
                    "no logger",
                    "visualizations: no logger accepts images, so no pictures are drawn",
                )
        return takers

    def _publish_worst(
        self, keeper: Keeper, loggers: list[Any], stage: str, worst: WorstClips, step: int
    ) -> None:
        started = time.perf_counter()
        key = f"{stage}/worst"
        key += self._unused(loggers, key, step)
        worst.rank()
        if worst.num_ranked < worst.num_seen:
            self._troubles.say_once(
                "worst",
                f"visualizations: {stage}/worst covers only {worst.num_ranked} of the "
                f"{counted(worst.num_seen, 'validated clip', 'validated clips')}; the others were "
                "not examined, to stay within "
                f"visualizations.max_overhead={self.config.max_overhead:g} or because drawing "
                "fell behind",
            )
        clips = worst.clips()
        keeper.store(clips, WORST)
        if clips:
            takers = self._draw(keeper, loggers, key, clips, step, self.config.worst_clips)
            self._log_cost(takers, step, 0.0, started)

    def _publish_prompts(
        self, keeper: Keeper, loggers: list[Any], taken: Mapping[str, Snapshot], step: int
    ) -> None:
        clips = {kind: snapshot.clips()[0] for kind, snapshot in taken.items()}
        for kind in list(clips)[1:]:
            name = f"{clips[kind].name} · {kind} prompts"
            keeper.store([dataclasses.replace(clips[kind], name=name)], PROMPTS)
        if not loggers or self._troubles.are_useless(loggers):
            return
        key = "val/prompts"
        key += self._unused(loggers, key, step)
        sheet = render_by_prompts(clips, self.config.panel_size)
        ious = ", ".join(f"{kind} {clip.mean_iou:.3f}" for kind, clip in clips.items())
        name = next(iter(clips.values())).name
        caption = f"mean IoU by prompts: {ious} · val · step {step} · {name}"
        self._log_pictures(loggers, key, [sheet], step, [caption], 1)

    def _num_slots(self, stage: str) -> int:
        """Return the most sheets that a key of the stage can have, whatever its batches hold."""
        config = self.config
        return config.max_videos if stage == TRAIN else max(config.max_videos, config.pinned_clips)

    def _unused(self, loggers: list[Any], key: str, step: int, batch_idx: int = 0) -> str:
        """Return an ending that gives every picture of one step a key of its own.

        Dashboards drop the second picture of a key and step.
        """
        ending = f"_batch{batch_idx}" if batch_idx else ""
        used = [self._used_by(logger).times for logger in loggers]
        count = 1 + max((times[key + ending, step] for times in used), default=0)
        for times in used:
            times[key + ending, step] = count
        return ending if count == 1 else f"{ending}_{count}"

    def _used_by(self, logger: Any) -> _Used:
        used = self._used.get(id(logger))
        if used is None or used.logger() is not logger:  # another one may get the id of a dead one
            used = self._used[id(logger)] = _Used(_weak(logger))
        return used

    def _log_sheets(
        self, loggers: list[Any], key: str, clips: list[Clip], step: int, num_slots: int
    ) -> list[Any]:
        """Draw one sheet per clip and return the loggers that took them."""
        drawn = [clip.select(self._sheet_frames(clip)) for clip in clips]
        sheets, captions = draw_sheets(drawn, self.config.panel_size)
        return self._log_pictures(loggers, key, sheets, step, captions, num_slots)

    def _log_pictures(
        self,
        loggers: list[Any],
        key: str,
        pictures: list[np.ndarray],
        step: int,
        captions: list[str],
        num_slots: int,
    ) -> list[Any]:
        """Return the loggers that took them."""
        takers = []
        failures: list[tuple[str, Exception]] = []
        for logger in loggers:
            try:
                if log_images(logger, key, pictures, step, captions, num_slots=num_slots):
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
        return takers

    def _sheet_frames(self, clip: Clip) -> list[int]:
        if clip.is_of_rounds:
            return list(range(len(clip.frames)))
        config = self.config
        wanted = range(0, config.frame_stride * config.max_frames, config.frame_stride)
        return [i for i, frame in enumerate(clip.frames) if frame.position in wanted]

    def _log_cost(self, loggers: list[Any], step: int, blocked_ms: float, started: float) -> None:
        """Log what was spent since the last values; a second value of one step would be lost."""
        cost = self._cost
        cost.blocked_ms += blocked_ms
        cost.render_ms += (time.perf_counter() - started) * 1e3
        loggers = [logger for logger in loggers if step not in self._used_by(logger).cost_steps]
        if not loggers:
            return
        scalars = {
            "visualizations/blocked_ms": cost.blocked_ms,
            "visualizations/render_ms": cost.render_ms,
            "visualizations/dropped": float(self._troubles.num_dropped),
        }
        cost.blocked_ms = cost.render_ms = 0.0
        # Not to loggers without images: CSV's is not made to be called from two threads.
        for logger in loggers:
            self._used_by(logger).cost_steps.add(step)
            if hasattr(logger, "log_metrics"):
                logger.log_metrics(scalars, step=step)

    def _log_animations(self, loggers: list[Any], key: str, clips: list[Clip], step: int) -> None:
        """Log one GIF per clip, the first one under the key itself."""
        loggers = [logger for logger in loggers if takes_gifs(logger)]
        if not loggers:
            return
        for index, clip in enumerate(clips):
            name = f"{key}_clip{index}" if index else key
            frames = render_animation(clip, self.config.panel_size)
            if not log_gif(loggers, name, frames, step, caption=clip.name):
                self._troubles.say_once(
                    "large gif",
                    f"visualizations: {name} was not logged: SwanLab accepts at most 10 MiB; a "
                    f"visualizations.panel_size below {self.config.panel_size} may help",
                )


def draw_sheets(clips: Sequence[Clip], panel_size: int) -> tuple[list[np.ndarray], list[str]]:
    """Return one sheet and one caption per clip."""
    sheets = [render_sheet(clip, panel_size=panel_size) for clip in clips]
    return sheets, [_caption(clip) for clip in clips]


def _caption(clip: Clip) -> str:
    when = f"{clip.moment.stage} · step {clip.moment.step} · " if clip.moment else ""
    return f"{when}{clip.name} · {mean_iou_words(clip)}"


def _weak(logger: Any) -> Callable[[], Any]:
    """Return a weak reference, or a strong one to what allows no weak ones."""
    try:
        return weakref.ref(logger)
    except TypeError:
        return lambda: logger
