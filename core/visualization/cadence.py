"""When pictures are due; decided from numbers alone, before any tensor is looked at."""

from dataclasses import dataclass
from typing import Optional

from ..config import VisualizationsConfig


@dataclass(frozen=True)
class Event:
    """What is to be done with a batch.

    Attributes:
        stage: ``train`` or ``val``.
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
        self._last_train_step = -1
        self._val_batch_size = 1

    def due(self, stage: str, step: int, batch_idx: int) -> Optional[Event]:
        """Return what is to be done with this batch; None, most of the time: nothing.

        Training: the first `max_videos` clips once per optimizer step that `every_n_steps` divides.
        Validation: the same on the first batch and every `every_n_steps` batches after it, and the
        pinned clips, which are the first ones that this process validates.
        """
        if stage not in ("train", "val"):
            raise ValueError(f"stage must be 'train' or 'val', got {stage!r}")
        config = self._config
        if stage == "train":
            if step % config.every_n_steps or step == self._last_train_step:
                return None
            self._last_train_step = step
            return Event(stage, step, 0, config.max_videos)
        regular = config.max_videos if batch_idx % config.every_n_steps == 0 else 0
        pinned = config.pinned_clips - batch_idx * self._val_batch_size
        is_scored = config.worst_clips > 0
        event = Event(
            stage, step, batch_idx, max(regular, pinned), is_scored, num_pinned=max(pinned, 0)
        )
        return event if event.num_videos > 0 or is_scored else None

    def note_batch_size(self, event: Event, batch_size: int) -> None:
        """Learn from validation's first batch, always due, which later ones hold pinned clips."""
        if event.batch_idx == 0:
            self._val_batch_size = batch_size

    def begin_anew(self) -> None:
        """Let the next run draw the same step once more."""
        self._last_train_step = -1
