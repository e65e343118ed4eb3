"""The worst clips of one validation run: of lowest mean IoU, or with most frames of a failure."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Optional

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
        self._unranked: deque[tuple[Snapshot, Optional[Sequence[float]]]] = deque()
        self._worst: list[tuple[tuple[float, ...], int, Clip]] = []
        self._order = itertools.count(0, -1)  # of equals the first stays; clips have no order

    def has_room(self) -> bool:
        """Return whether another snapshot may wait to be ranked."""
        waiting = self._unranked.copy()  # the worker takes from it meanwhile
        return sum(len(snapshot.videos) for snapshot, _ in waiting) < MAX_UNRANKED

    def add(self, snapshot: Snapshot, failure_shares: Optional[Sequence[float]] = None) -> None:
        """Have the clips of a snapshot ranked by the next `rank`.

        Args:
            snapshot: Of the clips of a batch.
            failure_shares: Of each, the share of frames that failed in the way that counts; clips
                where none did are let go. None: mean IoU counts.
        """
        self._unranked.append((snapshot, failure_shares))

    def rank(self) -> None:
        """Rank what waits and let go of all but the worst; waits for the device."""
        while self._unranked:
            snapshot, shares = self._unranked.popleft()
            for index, clip in enumerate(snapshot.clips()):
                self.num_ranked += 1
                share = None if shares is None else shares[index]
                if math.isnan(clip.mean_iou) or share == 0:  # nothing to measure, or to show
                    continue
                badness = (-clip.mean_iou,) if share is None else (share, -clip.mean_iou)
                heapq.heappush(self._worst, (badness, next(self._order), clip))
                if len(self._worst) > self._num_kept:
                    heapq.heappop(self._worst)

    def clips(self) -> list[Clip]:
        """Return the clips kept, the worst first."""
        return [clip for _, _, clip in sorted(self._worst, reverse=True)]
