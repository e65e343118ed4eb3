"""Several data sets in one run: whose clips make the next batch, and which number a clip has."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
from torch.utils.data import Dataset
from training.utils.data_utils import VideoDatapoint

from .clips import ClipDataset
from .datapoint import ORDER, TURNS, epoch_and_index, make_generator
from .loader import Key, Position, in_batches, num_batches, share_of_rank, world
from .synthetic import SyntheticDataset


@dataclass(frozen=True)
class Part:
    """One data set's clips among those of all.

    Attributes:
        first: The index of its first clip.
        num_clips: How many it has.
        batch_size: Clips per batch.
        weight: Its share of the steps, by the sum of all weights; None: by its clips.
    """

    first: int
    num_clips: int
    batch_size: int
    weight: Optional[float] = None


@dataclass(frozen=True)
class MixedOrder:
    """The batches of training, each of one data set, the same one on every rank.

    An epoch has as many batches as it takes to see every clip of every data set once. Which data
    set a batch is of depends on (seed, epoch) alone. A data set's clips come in passes through all
    of them, one after the other and across epochs; the number of its pass is a clip's epoch.
    """

    parts: Sequence[Part]
    seed: int

    def count(self, num_ranks: int) -> int:
        """Return the batches of one epoch that each rank has."""
        return sum(self.counts(num_ranks))

    def counts(self, num_ranks: int) -> list[int]:
        """Return how many batches of an epoch are of each data set."""
        whole = [num_batches(part.num_clips, part.batch_size, num_ranks) for part in self.parts]
        weights = [part.weight for part in self.parts if part.weight is not None]
        return share_out(sum(whole), weights) if weights else whole

    def batches(self, epoch: int) -> list[list[Key]]:
        """Return this rank's batches of (epoch, index) pairs."""
        counts = self.counts(world()[1])
        batches = [iter(self._batches_of(i, epoch, count)) for i, count in enumerate(counts)]
        return [next(batches[i]) for i in self._turns(epoch).tolist()]

    def rest(self, position: Position) -> list[list[Key]]:
        """Return this rank's batches that are to come."""
        return self.batches(position.epoch)[position.batches :]

    def clips_before(self, position: Position) -> int:
        """Return how many clips of the epoch all ranks have done."""
        return int(self._sizes(position.epoch)[: position.batches].sum())

    def position_after(self, epoch: int, clips: int) -> Position:
        """Return where to continue after so many clips of all ranks.

        In batches of other sizes the data sets take other turns: of each about as many are done.
        """
        ends = np.cumsum(self._sizes(epoch))
        done = int(np.searchsorted(ends, clips, side="right"))
        return Position(epoch, done) if done < len(ends) else Position(epoch + 1)

    def _turns(self, epoch: int) -> np.ndarray:
        """Return which data set each batch of an epoch is of."""
        counts = self.counts(world()[1])
        turns = np.repeat(np.arange(len(counts)), counts)
        return make_generator(TURNS, self.seed, epoch).permutation(turns)

    def _sizes(self, epoch: int) -> np.ndarray:
        """Return how many clips all ranks have in each batch of an epoch."""
        sizes = np.array([part.batch_size * world()[1] for part in self.parts])
        return sizes[self._turns(epoch)]

    def _batches_of(self, i: int, epoch: int, count: int) -> list[list[Key]]:
        part, (rank, num_ranks) = self.parts[i], world()
        seen_per_epoch = count * part.batch_size * num_ranks
        places = np.arange(epoch * seen_per_epoch, (epoch + 1) * seen_per_epoch)[rank::num_ranks]
        passes, places = np.divmod(places, part.num_clips)
        orders = {
            number: make_generator(ORDER, self.seed, i, number).permutation(part.num_clips)
            for number in np.unique(passes).tolist()
        }
        keys = [
            (number, part.first + int(orders[number][place]))
            for number, place in zip(passes.tolist(), places.tolist(), strict=True)
        ]
        return in_batches(keys, part.batch_size)


@dataclass(frozen=True)
class InTurn:
    """The batches of validation: the data sets take turns, each in its own order.

    Every rank has equally many batches of each, by repeating its first clips.
    """

    parts: Sequence[Part]

    def count(self, num_ranks: int) -> int:
        """Return the batches of one validation that each rank has."""
        return sum(num_batches(part.num_clips, part.batch_size, num_ranks) for part in self.parts)

    def batches(self, epoch: int) -> list[list[Key]]:
        """Return this rank's batches of (epoch, index) pairs; the indices are always the same."""
        of_parts = []
        for part in self.parts:
            indices = share_of_rank(np.arange(part.first, part.first + part.num_clips))
            of_parts.append(in_batches([(epoch, index) for index in indices], part.batch_size))
        in_turn = itertools.zip_longest(*of_parts)
        return [batch for turn in in_turn for batch in turn if batch is not None]


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole numbers in proportion to the weights that add up to `total`.

    What is left after rounding down goes to the largest remainders. What has a weight above 0 gets
    1 at least, where `total` allows it.
    """
    exact = np.asarray(weights, float) * (total / sum(weights))
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    for i in np.flatnonzero((counts == 0) & (exact > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] = 1
    return counts.tolist()


class MixedDataset(Dataset):
    """The clips of several data sets, one after the other.

    A clip's `video_id` is its number within its data set plus the clips of those before it, so
    that no two data sets share one.

    Args:
        parts: Their clips by name.
    """

    def __init__(self, parts: Mapping[str, Union[SyntheticDataset, ClipDataset]]) -> None:
        """See the class."""
        self.names, self.datasets = list(parts), list(parts.values())
        sizes = [len(dataset) for dataset in self.datasets]
        self.firsts = [0, *itertools.accumulate(sizes)][:-1]

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, key: Union[int, Key]) -> VideoDatapoint:
        """Return clip `index` of epoch `epoch`; `key` is (epoch, index) or an index."""
        epoch, index = epoch_and_index(key, len(self))
        i = self._position(index)
        clip = self.datasets[i][epoch, index - self.firsts[i]]
        clip.video_id += self.firsts[i]
        return clip

    def _position(self, number: int) -> int:
        return int(np.searchsorted(self.firsts, number, side="right")) - 1

    def source_of(self, video_id: int) -> str:
        """Return the name of the data set that a clip is of."""
        return self.names[self._position(video_id)]

    def clip_name(self, video_id: int) -> str:
        """Return a clip's name, behind that of its data set where there are several."""
        i = self._position(video_id)
        name = self.datasets[i].clip_name(video_id - self.firsts[i])
        return f"{self.names[i]}/{name}" if len(self.names) > 1 else name

    def object_names(self, video_id: int) -> Optional[dict[int, str]]:
        """Return {object id: name} of a clip, None when there are no names."""
        i = self._position(video_id)
        return self.datasets[i].object_names(video_id - self.firsts[i])
