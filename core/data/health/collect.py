"""What the splits of a data set hold, gathered video by video, and all that was found in them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..readers.reader import Reader
from . import likeness
from .likeness import Thumbnail
from .problems import Finding, View, find_classes, find_problems, side_at_model
from .scan import VideoScan

# Sides of objects in pixels of the model's picture, up to each of these, and beyond.
SIDES = (8, 16, 32, 64, 128, 256, 512)
# Shares of the frames of a video that an object is in, up to each of these.
LIFETIMES = (0.1, 0.25, 0.5, 0.75, 0.999, 1.0)


@dataclass
class Split:
    """What a split holds.

    Attributes:
        label: What it is called.
        reader: Where its frames and masks come from.
        training: Whether it is trained on.
        videos: Those that were read.
        masks_read: Masks of annotated frames that were read.
        masks: All of them.
        decoded: Frames that were decoded.
        sides: Objects by their median side at the model's size, in the classes of `SIDES`.
        lifetimes: Objects by the share of frames that they are in, in the classes of `LIFETIMES`.
        classes: {class: objects}.
        thumbnails: Some frames of each video.
        findings: What is unusual in its videos.
    """

    label: str
    reader: Reader
    training: bool
    videos: int = 0
    masks_read: int = 0
    masks: int = 0
    decoded: int = 0
    sides: list[int] = field(default_factory=lambda: [0] * (len(SIDES) + 1))
    lifetimes: list[int] = field(default_factory=lambda: [0] * len(LIFETIMES))
    classes: Counter = field(default_factory=Counter)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Collection:
    """All splits of a data set; see `add`.

    Args:
        image_size: ``model.image_size``.
        is_category_layout: Whether objects are categories.

    Attributes:
        splits: {label: `Split`}.
    """

    def __init__(self, image_size: int, is_category_layout: bool) -> None:
        """See the class."""
        self.image_size, self.is_category_layout = image_size, is_category_layout
        self.splits: dict[str, Split] = {}
        self._examples: dict[tuple[str, str], View] = {}

    def open(self, label: str, reader: Reader, training: bool) -> Callable[[VideoScan], None]:
        """Begin a split, and return what takes its videos."""
        split = self.splits[label] = Split(label, reader, training)
        return lambda scan: self._add(split, scan)

    def _add(self, split: Split, scan: VideoScan) -> None:
        split.masks += scan.num_frames
        if not scan.places:
            return
        split.videos += 1
        split.masks_read += len(scan.places)
        split.decoded += scan.decoded
        split.thumbnails += scan.thumbnails
        split.findings += find_problems(scan, split.label, self.image_size, self.is_category_layout)
        (size, _), *_ = scan.sizes.most_common(1)
        names = split.reader.object_names(scan.video) or {}
        ids, starts, counts = np.unique(scan.rows["object"], return_index=True, return_counts=True)
        for key, start, count in zip(ids.tolist(), starts.tolist(), counts.tolist(), strict=True):
            areas = scan.rows["area"][scan.rows["object"] == key]
            side = side_at_model(float(np.median(areas)), size, self.image_size)
            split.sides[int(np.searchsorted(SIDES, side, "right"))] += 1
            share = count / len(scan.places)
            split.lifetimes[int(np.searchsorted(LIFETIMES, share, "left"))] += 1
            if key in names:
                split.classes[names[key]] += 1
                view = View(split.label, scan.video, int(scan.rows["place"][start]), (key,))
                self._examples.setdefault((split.label, names[key]), view)

    @property
    def num_videos(self) -> int:
        """Videos that were read, of all splits."""
        return sum(split.videos for split in self.splits.values())

    def findings(self) -> list[Finding]:
        """Return all that was found, in no order."""
        found = [finding for split in self.splits.values() for finding in split.findings]
        training = [split for split in self.splits.values() if split.training]
        validation = [split for split in self.splits.values() if not split.training]
        for val in validation:
            for trained in training:
                found += _duplicates(trained, val)
        for trained, val in zip(training, validation, strict=False):
            if trained.classes or val.classes:
                counts = {trained.label: dict(trained.classes), val.label: dict(val.classes)}
                found += find_classes(counts, self._examples, trained.label, val.label)
        return found


def _duplicates(trained: Split, val: Split) -> list[Finding]:
    """Return one finding for each pair of videos that have frames in common."""
    pairs = likeness.find_pairs(
        [thumbnail.pixels for thumbnail in val.thumbnails],
        [thumbnail.pixels for thumbnail in trained.thumbnails],
    )
    best: dict[tuple[int, int], likeness.Pair] = {}
    count: Counter = Counter()
    for pair in pairs:
        key = val.thumbnails[pair.first].video, trained.thumbnails[pair.second].video
        count[key] += 1
        if key not in best or best[key].likeness < pair.likeness:
            best[key] = pair
    looked_at = Counter(thumbnail.video for thumbnail in val.thumbnails)
    found = []
    for (val_video, train_video), pair in best.items():
        one, other = val.thumbnails[pair.first], trained.thumbnails[pair.second]
        num_pairs = count[val_video, train_video]
        text = (
            f"{num_pairs} of {looked_at[val_video]} frames looked at are almost the same as frames"
            f" of {trained.label}: {trained.reader.names[train_video]}"
        )
        views = (
            View(val.label, val_video, one.place, masks="none"),
            View(trained.label, train_video, other.place, masks="none"),
        )
        weight = num_pairs / looked_at[val_video]
        found.append(Finding("duplicates", (val.label, val_video), text, weight, views))
    return found
