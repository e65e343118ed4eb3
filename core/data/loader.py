"""The order of clips, and continuing in the middle of an epoch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Optional, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from .datapoint import ORDER, make_generator


@dataclass(frozen=True)
class Position:
    """A place in training: an epoch, and how many of its batches are done.

    Attributes:
        epoch: The epoch.
        batches: Those that are done, of as many as an epoch has.
        apart: Clips of all ranks that were done in batches of another size, where no batch ends at
            them: those to come are cut from the rest. 0: all are cut from the whole epoch.
    """

    epoch: int
    batches: int = 0
    apart: int = 0


Key = tuple[int, int]  # (epoch, index) of a clip


class Order(Protocol):
    """Which clips are in which batch of an epoch."""

    def count(self, num_ranks: int) -> int:
        """Return the batches of one epoch that each rank has."""

    def batches(self, epoch: int) -> list[list[Key]]:
        """Return those of this rank, the same whenever it is asked."""


class TrainOrder(Order, Protocol):
    """An order that can be left in the middle of an epoch, and continued in other batches."""

    def rest(self, position: Position) -> list[list[Key]]:
        """Return this rank's batches that are to come."""

    def clips_before(self, position: Position) -> int:
        """Return how many clips of the epoch all ranks have done."""

    def position_after(self, epoch: int, clips: int) -> Position:
        """Return where to continue after so many clips of all ranks."""


@dataclass(frozen=True)
class ClipOrder:
    """The order of one data set's clips.

    It depends on (seed, epoch) alone; without `shuffle` on neither. All ranks get equally many
    clips, by repeating the first ones at the end.
    """

    num_clips: int
    batch_size: int
    seed: int
    shuffle: bool

    def count(self, num_ranks: int) -> int:
        """See `Order`."""
        return num_batches(self.num_clips, self.batch_size, num_ranks)

    def of(self, epoch: int, apart: int = 0) -> list[int]:
        """Return the indices of this rank's clips in one epoch, without the first ones of all."""
        order = np.arange(self.num_clips)
        if self.shuffle:
            order = make_generator(ORDER, self.seed, epoch).permutation(order)
        return share_of_rank(order[apart:])

    def batches(self, epoch: int) -> list[list[Key]]:
        """See `Order`."""
        return self.rest(Position(epoch))

    def rest(self, position: Position) -> list[list[Key]]:
        """See `TrainOrder`."""
        keys = [(position.epoch, index) for index in self.of(position.epoch, position.apart)]
        return in_batches(keys, self.batch_size)[self._done_since(position) :]

    def clips_before(self, position: Position) -> int:
        """See `TrainOrder`."""
        return position.apart + self._done_since(position) * self.batch_size * world()[1]

    def position_after(self, epoch: int, clips: int) -> Position:
        """See `TrainOrder`."""
        if clips >= self.num_clips:
            return Position(epoch + 1)
        num_ranks = world()[1]
        whole, part = divmod(clips, self.batch_size * num_ranks)
        if not part:
            return Position(epoch, whole)
        left = num_batches(self.num_clips - clips, self.batch_size, num_ranks)
        return Position(epoch, self.count(num_ranks) - left, clips)

    def _done_since(self, position: Position) -> int:
        """Return how many batches are done of those cut from the clips that come after `apart`."""
        num_ranks = world()[1]
        cut = num_batches(self.num_clips - position.apart, self.batch_size, num_ranks)
        return position.batches - (self.count(num_ranks) - cut)


def num_batches(num_clips: int, batch_size: int, num_ranks: int) -> int:
    """Return how many batches of a rank it takes to see every clip once."""
    return math.ceil(math.ceil(num_clips / num_ranks) / batch_size)


def share_of_rank(clips: np.ndarray) -> list[int]:
    """Return this rank's share of clips [N]: as many as others get, repeating the first ones."""
    rank, num_ranks = world()
    most = -(-len(clips) // num_ranks)
    return np.resize(clips, most * num_ranks)[rank::num_ranks].tolist()


def in_batches(keys: list[Key], batch_size: int) -> list[list[Key]]:
    """Return them in batches, the last one of which may be smaller."""
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]


def world() -> tuple[int, int]:
    """Return (rank, number of ranks) as of now: loaders may be built before the group is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@dataclass
class _Pass:
    """One iteration over the loader: where it started, and how far it came.

    Attributes:
        start: Where it started.
        trained_before: Lightning's count of trained batches by then.
        fetched: Batches of the epoch that were handed out, those before `start` included.
    """

    start: Position
    trained_before: int
    fetched: int


class Course:
    """Where training is in its clips, from numbers alone.

    What counts as done are the batches that were trained on, not those that were fetched ahead.
    Lightning's own count of epochs and batches is read as differences alone: resumed at the end of
    an epoch it may count an epoch too many, or end the next one after a single batch, and nothing
    is to be lost or seen twice.
    """

    def __init__(self) -> None:
        self._shift = 0  # the epoch minus Lightning's
        self._resume: Optional[Position] = None
        self._latest: Optional[_Pass] = None

    @property
    def start(self) -> Position:
        """Where the pass started that was begun last."""
        return Position(0) if self._latest is None else self._latest.start

    def resume_at(self, position: Position) -> None:
        """Start the next pass at `position`, whatever epoch Lightning counts."""
        self._resume = position

    def begin(self, epoch: int, num_batches: float, trained: Optional[int]) -> None:
        """Start a pass: at the first batch of the epoch, or where training is to continue.

        Args:
            epoch: Lightning's epoch.
            num_batches: Batches of an epoch that are trained on.
            trained: How many of its epoch Lightning trained on; None without a Trainer.
        """
        start = self._resume
        if start is None and trained is not None:
            start = self._cut_short(epoch + self._shift, num_batches)
        if start is None:
            start = Position(epoch + self._shift)
        self._resume, self._shift = None, start.epoch - epoch
        self._latest = _Pass(start, trained or 0, start.batches)

    def _cut_short(self, epoch: int, num_batches: float) -> Optional[Position]:
        """Return where the epoch before `epoch` ended, None when it was whole."""
        latest = self._latest
        if latest is None or latest.start.epoch != epoch - 1 or latest.fetched >= num_batches:
            return None
        return replace(latest.start, batches=latest.fetched)

    def fetched(self) -> None:
        """Count a batch that was handed out."""
        if self._latest is not None:
            self._latest.fetched += 1

    def position(self, epoch: int, num_batches: float, trained: Optional[int]) -> Position:
        """Return where training is to continue; the arguments are those of `begin`."""
        if self._resume is not None:
            return self._resume
        epoch, latest = epoch + self._shift, self._latest
        if latest is None or latest.start.epoch != epoch:
            return Position(epoch)
        batches = latest.fetched
        if trained is not None:
            batches = min(batches, latest.start.batches + trained - latest.trained_before)
        return (
            Position(epoch + 1)
            if batches >= num_batches
            else replace(latest.start, batches=batches)
        )


class ClipBatches(Sampler[list[Key]]):
    """This rank's batches of (epoch, index) pairs, all those of Lightning's epoch.

    Args:
        order: Which clips are in which batch.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.epoch = 0

    @property
    def sampler(self) -> "ClipBatches":
        """Itself: Lightning sets the epoch of what a batch sampler has here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Take note of Lightning's epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.order.count(world()[1])

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.order.batches(self.epoch))


class BatchesToCome(ClipBatches):
    """Those that are left where training continues.

    Args:
        order: Which clips are in which batch.
        course: Where to start.
    """

    def __init__(self, order: TrainOrder, course: Course) -> None:
        super().__init__(order)
        self._rest, self._course = order.rest, course

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self._rest(self._course.start))


class ResumableLoader(DataLoader):
    """A DataLoader that continues in the middle of an epoch.

    Lightning saves and loads the state of loaders that have one.

    Args:
        order: Which clips are in which batch.
        progress: Returns how many batches of its epoch Lightning trained on, and how many it has;
            None without a Trainer.
        **options: Those of a DataLoader.

    Attributes:
        waited_s: Seconds in which batches were waited for, in all passes together.
        asked_at: When the last batch was asked for, as ``time.perf_counter`` counts.
    """

    def __init__(
        self,
        *,
        order: TrainOrder,
        progress: Callable[[], Optional[tuple[int, float]]],
        **options: Any,
    ) -> None:
        self._progress, self._course, self._order = progress, Course(), order
        self.waited_s = self.asked_at = 0.0
        self._clips = BatchesToCome(order, self._course)
        super().__init__(batch_sampler=self._clips, **options)

    def _counts(self) -> tuple[int, float, Optional[int]]:
        """Return Lightning's epoch, the batches of an epoch and how many of them were trained."""
        progress = self._progress()
        if progress is None:
            return self._clips.epoch, len(self), None
        return self._clips.epoch, min(len(self), progress[1]), progress[0]

    # torch promises an iterator of a private class, which a generator is not
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator: Lightning makes iterators before it sets the epoch, and the epoch must be
        # known when the first batch is asked for
        self._course.begin(*self._counts())
        batches = super().__iter__()
        while True:
            self.asked_at = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited_s += perf_counter() - self.asked_at
            self._course.fetched()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were trained on.

        And how many clips of all ranks these are: a run that resumes may have other batches.
        """
        position = self._course.position(*self._counts())
        clips = self._order.clips_before(position)
        return {"epoch": position.epoch, "batches": position.batches, "clips": clips}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from what `state_dict` returned; before it told the clips, batches count."""
        epoch, batches = (int(state_dict[key]) for key in ("epoch", "batches"))
        if "clips" in state_dict:
            self._course.resume_at(self._order.position_after(epoch, int(state_dict["clips"])))
        else:
            self._course.resume_at(Position(epoch, batches))
