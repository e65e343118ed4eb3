"""What each click gains on clips of one frame: IoU after each round of them, per object."""

import math
from collections.abc import Sequence

from torch import Tensor

from ..official import FirstPrompt
from .masks import object_ious_of_frame
from .video import gather_rows

# Clicks after which IoU is told, as papers on interactive segmentation do; the last one always is.
_TOLD_CLICKS = (1, 3, 8)
_TOLD_BEHIND_BOX = (0, 2, 7)


def name_of_round(index: int, first: FirstPrompt) -> str:
    """Return what metrics call a round: ``1click``, ``3clicks``, ``box``, ``box+2clicks``."""
    num_clicks = first.num_clicks + index
    words = f"{num_clicks}click{'' if num_clicks == 1 else 's'}"
    if not first.has_box:
        return words
    return f"box+{words}" if num_clicks else "box"


def told_rounds(num_rounds: int, first: FirstPrompt) -> list[int]:
    """Return the rounds that metrics tell of, by their index."""
    told = _TOLD_BEHIND_BOX if first.has_box else _TOLD_CLICKS
    indices = {count - first.num_clicks for count in told} & set(range(num_rounds))
    return sorted(indices | {num_rounds - 1})


class RoundMetrics:
    """Accumulates IoU after each round per object, and averages over all ranks when distributed.

    Attributes:
        rows: By video and object id the IoU after each round that is told of, by its name.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], dict[str, float]] = {}

    def reset(self) -> None:
        """Start anew."""
        self.rows = {}

    def update(
        self,
        masks_per_round: Sequence[Tensor],
        gt_masks: Tensor,
        first: FirstPrompt,
        video_ids: Sequence[int],
        object_ids: Sequence[int],
    ) -> None:
        """Add the objects of a batch of clips of one frame; those that are not there are left out.

        Args:
            masks_per_round: [O, H, W] bool each.
            gt_masks: [O, H, W] bool on the same device.
            first: What the first round is.
            video_ids: O ids.
            object_ids: O ids, unique within their video.
        """
        keys = list(zip(video_ids, object_ids, strict=True))
        for index in told_rounds(len(masks_per_round), first):
            name = name_of_round(index, first)
            ious = object_ious_of_frame(masks_per_round[index], gt_masks).tolist()
            for key, iou in zip(keys, ious, strict=True):
                if not math.isnan(iou):
                    self.rows.setdefault(key, {})[name] = iou

    def compute(self) -> dict[str, float]:
        """Return ``iou@NAME`` for each round; a collective, as `VideoMetrics.compute` is."""
        (self.rows,) = gather_rows(self.rows)
        names = dict.fromkeys(name for row in self.rows.values() for name in row)
        means = {}
        for name in names:
            ious = [row[name] for row in self.rows.values() if name in row]
            means[f"iou@{name}"] = math.fsum(ious) / len(ious)
        return means
