"""Many objects as one piece of memory."""

import pickle
from collections.abc import Iterable
from typing import Generic, TypeVar

import numpy as np

_Item = TypeVar("_Item")


class Packed(Generic[_Item]):
    """Items as bytes, made into objects again when they are asked for.

    Workers of a loader share their parent's memory until one of them writes to it, and Python
    writes to every object that it looks at: a worker would come to own all of a large data set.

    Args:
        items: What `pickle` can write. They never leave this program, so that it may read them.
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        """See the class."""
        packed, ends = bytearray(), [0]
        for item in items:
            packed += pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            ends.append(len(packed))
        self._bytes = np.frombuffer(packed, np.uint8)
        self._ends = np.array(ends)

    def __getitem__(self, i: int) -> _Item:
        item: _Item = pickle.loads(self._bytes[self._ends[i] : self._ends[i + 1]].data)
        return item
