"""A model of what a training step needs, fitted to probes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..words import counted

_MEMORIES = 7  # of earlier frames that SAM 2 attends to


@dataclass(frozen=True)
class Measured:
    """What one probe needed.

    Attributes:
        peak: GiB at most, see `core.memory.peak_memory`.
        step_s: Seconds of its fastest step.
        device: ``cuda``, ``cpu``, ...
        name: The device's own name.
    """

    peak: float
    step_s: float
    device: str = "cpu"
    name: str = ""


@dataclass(frozen=True)
class Size:
    """What a step's needs grow with.

    Attributes:
        frames: Frames per clip.
        objects: Objects per clip.
        side: Side of the square frames in pixels.
    """

    frames: int
    objects: int
    side: int

    def __str__(self) -> str:
        """Return it as the table writes it."""
        frames, objects = counted(self.frames, "frame"), counted(self.objects, "object")
        return f"{frames}, {objects}, {self.side} px"


def _terms(size: Size) -> list[float]:
    """Return what a step's needs are made of; each has a factor of its own, at least 0.

    A constant; what each frame needs, each object on each frame, each object once (clicks); and
    memory attention, whose keys grow with frames and whose matrices grow with their square.
    """
    pixels = (size.side / 128) ** 2
    memories = sum(min(t, _MEMORIES) for t in range(1, size.frames))
    return [
        1.0,
        size.frames * pixels,
        size.frames * size.objects * pixels,
        size.objects * pixels,
        size.objects * memories * pixels,
        size.objects * memories * pixels**2,
    ]


def fit(sizes: Sequence[Size], values: Sequence[float]) -> Callable[[Size], float]:
    """Return a function that predicts a value at any size.

    Relative errors are least, over all factors that are not negative.

    Args:
        sizes: Those probed.
        values: What was measured there, all above 0.
    """
    measured = np.asarray(values, dtype=float)
    terms = np.array([_terms(size) for size in sizes]) / measured[:, None]
    best, least = np.zeros(terms.shape[1]), np.inf
    # Least squares with factors >= 0, by trying out which ones are above: there are few.
    for number in range(1, min(len(sizes), terms.shape[1]) + 1):
        for chosen in itertools.combinations(range(terms.shape[1]), number):
            columns = terms[:, chosen]
            factors = np.linalg.lstsq(columns, np.ones(len(measured)), rcond=None)[0]
            error = float(((columns @ factors - 1) ** 2).sum())
            if (factors >= 0).all() and error < least - 1e-9:
                best, least = np.zeros(terms.shape[1]), error
                best[list(chosen)] = factors
    return lambda size: float(np.dot(best, _terms(size)))
