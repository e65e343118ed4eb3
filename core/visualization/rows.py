"""Which mask rows of a batch fill a video's categories, and which prompt rows belong to them."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from .prompts import UNASSIGNED
from .reduction import Choice, Clicks, Reduced


@dataclass(frozen=True)
class Rows:
    """Which mask rows of the batch fill the C category slots of a video.

    Attributes:
        video: Its position in the batch.
        all: Its rows, in category order.
        shown: The first C of them.
        kept: Where what was kept of the batch has those.
        num_categories: C.
    """

    video: int
    all: np.ndarray
    shown: np.ndarray
    kept: np.ndarray
    num_categories: int

    @staticmethod
    def of(video: int, choice: Choice, reduced: Reduced[np.ndarray]) -> "Rows":
        """Return those of a video, of which no more are shown than there are categories."""
        rows = np.flatnonzero(reduced.row_videos == video)
        count = len(rows) if choice.num_categories is None else choice.num_categories
        shown = rows[:count]
        kept = shown if reduced.rows is None else np.searchsorted(reduced.rows, shown)
        return Rows(video, rows, shown, kept, count)

    def kept_of(self, array: np.ndarray) -> np.ndarray:
        """Select from what was kept of each row, [T, R, ...]: [T, C, ...], zero where empty."""
        return self.fill(array, self.kept, 0)

    def of_batch(self, array: np.ndarray) -> np.ndarray:
        """Select from what is known of all rows, [T, O]: [T, C], NaN where empty."""
        return self.fill(array, self.shown, math.nan)

    def fill(self, array: np.ndarray, rows: np.ndarray, empty: float) -> np.ndarray:
        """Select `rows` of [T, R, ...]: [T, C, ...], `empty` where there are fewer."""
        out = np.full((len(array), self.num_categories, *array.shape[2:]), empty, array.dtype)
        out[:, : len(rows)] = array[:, rows]
        return out


def clicks_of(position: int, reduced: Reduced[np.ndarray]) -> list[Clicks[np.ndarray]]:
    """Return the clicks of a frame, the initial ones once."""
    final, initial = reduced.clicks.get(position), reduced.initial_clicks.get(position)
    if final is None:
        return []
    if initial is None:
        return [final]
    if final.begins_with(initial):
        return [dataclasses.replace(final, num_initial=initial.num_initial)]
    return [initial, final]


def assign_prompts(
    num_prompts: int, rows: Rows, reduced: Reduced[np.ndarray]
) -> tuple[list[tuple[int, int]], int]:
    """Return (prompt row, category) of a video, and how many rows belong to no known video.

    What cannot be known is not guessed.
    """
    num_rows = len(reduced.row_videos)
    if num_prompts == 0:
        return [], 0
    if reduced.obj_to_cat is not None:
        prompt_rows = reduced.obj_to_cat.tolist()
    elif num_prompts == num_rows and not reduced.are_components:
        prompt_rows = list(range(num_prompts))
    elif reduced.num_videos == 1:
        return [(index, UNASSIGNED) for index in range(num_prompts)], 0
    else:
        return [], num_prompts
    category_of_row = {row: category for category, row in enumerate(rows.shown.tolist())}
    assigned = [
        (index, category_of_row[row])
        for index, row in enumerate(prompt_rows)
        if row in category_of_row
    ]
    return assigned, sum(not 0 <= row < num_rows for row in prompt_rows)
