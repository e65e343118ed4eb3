"""The clips of lowest mean IoU of one validation run."""

import heapq
import itertools
import math
from collections import deque

from .clip import Clip
from .snapshot import Snapshot

# Clips; enough for a drawing or two to finish meanwhile. Of each a few MB are kept, of one on CUDA
# with 8 objects in 4 frames of 1024 px some 25.
MAX_UNRANKED = 16


class WorstClips:
    """Keeps the worst of the clips it is given, and no other one's memory.

    The training thread adds snapshots and counts clips; the worker ranks, because that may wait for
    the device and builds the clips.

    Args:
        num_kept: How many clips are kept.

    Attributes:
        num_seen: Clips of the validation run, counted by the caller.
        num_ranked: Those of them that were looked at; the others were let pass.
    """

    def __init__(self, num_kept: int) -> None:
        self.num_seen = 0
        self.num_ranked = 0
        self._num_kept = num_kept
        self._unranked: deque[Snapshot] = deque()
        self._worst: list[tuple[float, int, Clip]] = []
        self._order = itertools.count(0, -1)  # of equals the first stays; clips have no order

    def has_room(self) -> bool:
        """Return whether another snapshot may wait to be ranked."""
        waiting = self._unranked.copy()  # the worker takes from it meanwhile
        return sum(len(snapshot.videos) for snapshot in waiting) < MAX_UNRANKED

    def add(self, snapshot: Snapshot) -> None:
        """Have the clips of a snapshot ranked by the next `rank`."""
        self._unranked.append(snapshot)

    def rank(self) -> None:
        """Rank what waits and let go of all but the worst; waits for the device."""
        while self._unranked:
            for clip in self._unranked.popleft().clips():
                self.num_ranked += 1
                if math.isnan(clip.mean_iou):  # nothing to measure
                    continue
                heapq.heappush(self._worst, (-clip.mean_iou, next(self._order), clip))
                if len(self._worst) > self._num_kept:
                    heapq.heappop(self._worst)

    def clips(self) -> list[Clip]:
        """Return the clips kept, the worst first."""
        return [clip for _, _, clip in sorted(self._worst, reverse=True)]
