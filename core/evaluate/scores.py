"""J and F of each object on each annotated frame, at the video's own size, as DAVIS has them."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..files import whole_file
from ..metrics.masks import BOUNDARY_TOLERANCE, boundary_f


@dataclass
class VideoScores:
    """What was measured of one video: A annotated frames, O objects.

    Attributes:
        numbers: [A] the frames' numbers in the data set.
        object_ids: [O] ascending.
        names: [O] texts, empty where objects have no names.
        first: [O] the number of the frame on which each was prompted.
        j: [A, O] intersection over union; 1 where both masks are empty.
        f: [A, O] F-measure of the boundaries; the same.
        gt_pixels: [A, O] pixels of the annotation.
        pred_pixels: [A, O] pixels of the tracked mask.
        labelled: [A, O] whether the annotation says anything about the object there.
        image: Whether the video is an image, one frame long.
        stamp: That of the annotations, see `core.evaluate.videos.Videos.stamp`.
    """

    numbers: np.ndarray
    object_ids: np.ndarray
    names: np.ndarray
    first: np.ndarray
    j: np.ndarray
    f: np.ndarray
    gt_pixels: np.ndarray
    pred_pixels: np.ndarray
    labelled: np.ndarray
    image: bool = False
    stamp: str = ""

    @classmethod
    def empty(
        cls, num_frames: int, object_ids: list[int], names: list[str], first: list[int]
    ) -> "VideoScores":
        """Return scores to be filled in, frame by frame; what is not is as if both were empty."""
        shape = (num_frames, len(object_ids))
        return cls(
            numbers=np.zeros(num_frames, np.int64),
            object_ids=np.array(object_ids, np.int64),
            names=np.array(names, np.str_),
            first=np.array(first, np.int64),
            j=np.ones(shape),
            f=np.ones(shape),
            gt_pixels=np.zeros(shape, np.int64),
            pred_pixels=np.zeros(shape, np.int64),
            labelled=np.zeros(shape, bool),
        )

    def add(
        self,
        row: int,
        number: int,
        pred: dict[int, np.ndarray],
        gt: dict[int, np.ndarray],
        complete: bool,
    ) -> None:
        """Measure one frame.

        Args:
            row: Which of the annotated frames.
            number: See `numbers`.
            pred: {object id: bool [H, W]}; missing ones are empty.
            gt: The same.
            complete: Whether objects that are missing in `gt` are known not to be there.
        """
        self.numbers[row] = number
        for column, key in enumerate(self.object_ids.tolist()):
            self.labelled[row, column] = complete or key in gt
            masks = pred.get(key), gt.get(key)
            shape = next((mask.shape for mask in masks if mask is not None), None)
            if shape is None:
                continue
            one, other = (np.zeros(shape, bool) if mask is None else mask for mask in masks)
            self.pred_pixels[row, column] = np.count_nonzero(one)
            self.gt_pixels[row, column] = np.count_nonzero(other)
            self.j[row, column], self.f[row, column] = j_and_f(one, other)

    def save(self, path: Path) -> None:
        """Write everything to a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "VideoScores":
        """Read what `save` wrote.

        Raises:
            KeyError: An earlier version of the program wrote it.
        """
        with np.load(path) as stored:
            arrays = {item.name: stored[item.name] for item in fields(cls)}
        plain = {"image": bool(arrays["image"]), "stamp": str(arrays["stamp"])}
        return cls(**{**arrays, **plain})


def j_and_f(pred: np.ndarray, gt: np.ndarray) -> tuple[float, float]:
    """Return J and F of two masks [H, W]; 1 and 1 when both are empty.

    Only the part of the frame that holds the masks is looked at, which changes nothing.
    """
    union = pred | gt
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    if not len(rows):
        return 1.0, 1.0
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*pred.shape))
    # a boundary runs one pixel outside the mask at the left and the top
    part = tuple(slice(max(0, int(k[0]) - radius - 1), int(k[-1]) + radius + 2)
                 for k in (rows, columns))  # fmt: skip
    one, other = np.ascontiguousarray(pred[part]), np.ascontiguousarray(gt[part])
    j = np.count_nonzero(one & other) / np.count_nonzero(one | other)
    return j, boundary_f(one, other, radius)
