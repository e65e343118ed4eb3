"""When pictures are due; decided from numbers alone, before any tensor is looked at."""

from dataclasses import dataclass
from typing import Optional

from ..config import VisualizationsConfig

TRAIN = "train"  # the stage that counts steps; all others count batches


@dataclass(frozen=True)
class Event:
    """What is to be done with a batch.

    Attributes:
        stage: ``train``, ``val`` or any other name.
        step: Optimizer steps taken.
        batch_idx: Position of the batch in its validation run; 0 in training.
        num_videos: How many of its videos are drawn, the first ones; it may have fewer.
        num_pinned: How many of these are pinned clips, the first ones.
        is_scored: Its clips are candidates for the worst of the validation run.
    """

    stage: str
    step: int
    batch_idx: int
    num_videos: int
    is_scored: bool = False
    num_pinned: int = 0


class Cadence:
    """Says which batches are drawn.

    Args:
        config: Section of the configuration.
    """

    def __init__(self, config: VisualizationsConfig) -> None:
        self._config = config
        self._last_step: Optional[int] = None
        self._batch_sizes: dict[str, int] = {}

    def due(
        self, stage: str, step: int, batch_idx: int, is_first_of_run: bool = False
    ) -> Optional[Event]:
        """Return what is to be done with this batch; None, most of the time: nothing.

        Training: the first `max_videos` clips of a fresh run's first batch, and of each batch at
        which ``step // every_n_steps`` has grown. Steps counted by one give 0, n, 2n, ...; steps
        that skip numbers give the first one at or after each of these. Validation, and every other
        stage: the same clips of the first batch and of every `every_n_steps`-th one after it, and
        the pinned clips, which are the first ones that this process validates.

        Args:
            stage: ``train``, ``val`` or any other name.
            step: Optimizer steps taken.
            batch_idx: Position of the batch in its epoch.
            is_first_of_run: Nothing was trained before this batch, not even by a run that this one
                resumes.
        """
        config = self._config
        if stage == TRAIN:
            if not self._has_come(step, is_first_of_run):
                return None
            return Event(stage, step, 0, config.max_videos)
        if not isinstance(stage, str):
            raise TypeError(f"stage must be a text such as 'train', got {stage!r}")
        if not stage:
            raise ValueError("stage must not be empty")
        regular = config.max_videos if batch_idx % config.every_n_steps == 0 else 0
        pinned = config.pinned_clips - batch_idx * self._batch_sizes.get(stage, 1)
        is_scored = config.worst_clips > 0
        event = Event(
            stage, step, batch_idx, max(regular, pinned), is_scored, num_pinned=max(pinned, 0)
        )
        return event if event.num_videos > 0 or is_scored else None

    def _has_come(self, step: int, is_first_of_run: bool) -> bool:
        """Return whether the number of whole intervals has grown since the batch before."""
        before, self._last_step = self._last_step, step
        if before is None and is_first_of_run:
            return True
        if before is None or before > step:
            # Resumed, or put back to an earlier step: as if steps had been counted by one.
            before = step - 1
        return step // self._config.every_n_steps > before // self._config.every_n_steps

    def note_batch_size(self, event: Event, batch_size: int) -> None:
        """Learn from a stage's first batch, always due, which later ones hold pinned clips."""
        if event.stage != TRAIN and event.batch_idx == 0:
            self._batch_sizes[event.stage] = batch_size

    def begin_anew(self) -> None:
        """Let the next run draw the same step once more."""
        self._last_step = None
