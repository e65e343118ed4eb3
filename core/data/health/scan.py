"""Reads the masks of a split in worker processes: all of them, or as many as a minute allows."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ...config import num_cores
from ..clips import ClipDataset
from ..datapoint import use_one_thread_in_workers
from ..readers.files import DataError
from ..readers.frames import AnnotatedFrame
from ..readers.label_maps import LabelMap
from ..readers.reader import Reader
from ..readers.remarks import Remark
from .alignment import edge_map, edges_of, outlines_of, strength
from .likeness import Thumbnail, shrink
from .measure import ROW, find_overlaps, measure

# What gathers the parts takes its share of the cores, and processes side by side are slower.
_SPARED = 0.75
# Below this, processes take longer to start than to work.
_WORTH_WORKERS_S = 3.0
# Videos, and frames of each, that are read to know what the others will take.
_TRIED_VIDEOS, _TRIED_FRAMES = 6, 2
# Frames of all videos together that are compared with others, and with their masks' outlines.
_MOST_THUMBNAILS, _MOST_ALIGNED = 6000, 600
_PER_VIDEO, _ALIGNED_PER_VIDEO = 8, 3
# JPEGs are decoded no larger than needed.
_THUMBNAIL_SIDE, _EDGES_SIDE = 48, 200


@dataclass(frozen=True)
class Amount:
    """How much is read.

    Attributes:
        share: Of the annotated frames of a video that is read.
        every: Every so many-th video is read.
        frames: Whether each frame is decoded and its files are looked at, not only its masks.
        thumbnails: Frames of a video that are kept small.
        aligned_every: In every so many-th of the videos that are read, masks are compared with the
            edges of frames.
        parts: In how many parts a video is read.
        workers: Processes; 0: none beside this one.
    """

    share: float = 1.0
    every: int = 1
    frames: bool = True
    thumbnails: int = _PER_VIDEO
    aligned_every: int = 1
    parts: int = 1
    workers: int = 0


@dataclass
class VideoScan:
    """What was found in a video, or in a part of it.

    Attributes:
        video: Its index in the reader.
        num_frames: Its annotated frames.
        places: Those of them whose masks were read, ascending.
        numbers: The numbers of these frames.
        rows: `ROW`s of the objects.
        sizes: Frame sizes (width, height) and in how many frames they occur.
        overlaps: See `find_overlaps`.
        thumbnails: Frames made small.
        edges: `edge_map` of some frames.
        edge_width: The width of the frames that these were made of.
        beside: {offset: `strength` of the same masks on the frames so many places behind}.
        at_own: The same on their own, where there are frames on both sides.
        remarks: On files, with the frame's place.
        unmatched: See ``Reader.num_unmatched``.
        decoded: Frames that were decoded, those that masks are compared with not counted.
    """

    video: int
    num_frames: int = 0
    places: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    sizes: Counter = field(default_factory=Counter)
    overlaps: list[tuple[int, int, int, float]] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    edges: list[np.ndarray] = field(default_factory=list)
    edge_width: int = 0
    beside: dict[int, list[float]] = field(default_factory=lambda: {-1: [], 1: []})
    at_own: list[float] = field(default_factory=list)
    remarks: list[tuple[int, Remark]] = field(default_factory=list)
    unmatched: tuple[int, int] = (0, 0)
    decoded: int = 0

    def add(self, part: "VideoScan") -> None:
        """Add the part of the same video that follows."""
        self.num_frames, self.unmatched = part.num_frames, part.unmatched
        self.rows = np.concatenate([self.rows, part.rows])
        self.sizes.update(part.sizes)
        self.edge_width = part.edge_width or self.edge_width
        self.decoded += part.decoded
        for name in ("places", "numbers", "overlaps", "thumbnails", "edges", "at_own", "remarks"):
            getattr(self, name).extend(getattr(part, name))
        for offset, values in part.beside.items():
            self.beside[offset].extend(values)


def plan_amount(datasets: Sequence[ClipDataset], read_all: bool, seconds: float) -> Amount:
    """Read a few frames to know how many can be read in time.

    Args:
        datasets: What is to be read.
        read_all: Read every mask, however long it takes.
        seconds: What reading may take otherwise.

    Raises:
        DataError: A file is not usable.
    """
    cores = num_cores()
    videos = [(data.reader, source.video) for data in datasets for source in data.sources]
    tried = [_try(reader, video) for reader, video in videos[:: -(-len(videos) // _TRIED_VIDEOS)]]
    frames_each = statistics.fmean(cost.num_frames for cost in tried)
    num_frames = len(videos) * frames_each
    list_s, mask_s, frame_s, files_s = (
        statistics.median(getattr(cost, name) for cost in tried) / (_SPARED * cores)
        for name in ("list_s", "mask_s", "frame_s", "files_s")
    )
    whole_s = len(videos) * list_s + num_frames * (mask_s + frame_s + files_s)
    frames = whole_s <= seconds
    thumbnails_s = min(_PER_VIDEO * len(videos), _MOST_THUMBNAILS) * frame_s
    # something is always read
    left = max(seconds / 4, seconds - len(videos) * list_s - thumbnails_s)
    share = 1.0 if read_all or frames else min(1.0, left / (num_frames * mask_s))
    # of a video two neighbouring frames are read, or none
    every = max(1, math.ceil(min(2.0, frames_each) / (share * frames_each)))
    num_read = math.ceil(len(videos) / every)
    workers = cores if min(whole_s, seconds) > _WORTH_WORKERS_S else 0
    return Amount(
        share=min(1.0, share * every),
        every=every,
        frames=frames,
        thumbnails=max(1, min(_PER_VIDEO, _MOST_THUMBNAILS // num_read)),
        aligned_every=max(1, math.ceil(num_read * _ALIGNED_PER_VIDEO / _MOST_ALIGNED)),
        parts=max(1, 4 * workers // len(videos)),
        workers=workers,
    )


@dataclass(frozen=True)
class _Cost:
    """Seconds to list a video, and for the masks, the pixels and the files of one of its frames."""

    num_frames: int
    list_s: float
    mask_s: float
    frame_s: float
    files_s: float


def _try(reader: Reader, video: int) -> _Cost:
    clock = time.perf_counter
    start = clock()
    frames = reader.video(video).frames
    reader.num_unmatched(video)
    list_s = clock() - start
    found, seconds = VideoScan(video), []
    for place, frame in enumerate(frames[:_TRIED_FRAMES]):
        times = [clock()]
        for read in (
            lambda place=place, frame=frame: _read_masks(reader, found, place, frame),
            lambda frame=frame: _grey(reader, frame, _THUMBNAIL_SIDE),
            lambda frame=frame: reader.remarks(video, frame),
        ):
            read()
            times.append(clock())
        seconds.append(np.diff(times))
    # the first waits for files, and imports
    return _Cost(len(frames), list_s, *np.min(seconds, axis=0).tolist())


def scan(dataset: ClipDataset, amount: Amount, description: str) -> Iterator[VideoScan]:
    """Read the masks of a split, with a progress bar where there is a terminal.

    Args:
        dataset: The split.
        amount: What `plan_amount` says.
        description: The bar's label.

    Yields:
        Each of its videos, in their order.

    Raises:
        DataError: A file is not usable.
    """
    items = _Parts(dataset.reader, [source.video for source in dataset.sources], amount)
    loader = DataLoader(
        items,
        batch_size=None,
        num_workers=amount.workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the global one stays where it is
    )
    whole: Optional[VideoScan] = None
    bar = tqdm(total=len(dataset.sources), desc=description, unit="video", disable=None)
    with bar:
        for k, part in enumerate(loader):
            if isinstance(part, DataError):
                raise part
            if whole is None:
                whole = part
            else:
                whole.add(part)
            if (k + 1) % amount.parts == 0:
                bar.update()
                yield whole
                whole = None


def _as_it_is(item: Any) -> Any:
    return item


class _Parts(Dataset):
    """The parts of all videos; an error is returned, because a loader would change its text."""

    def __init__(self, reader: Reader, videos: list[int], amount: Amount) -> None:
        self.reader, self.videos, self.amount = reader, videos, amount

    def __len__(self) -> int:
        return len(self.videos) * self.amount.parts

    def __getitem__(self, k: int) -> Union[VideoScan, DataError]:
        if k >= len(self):
            raise IndexError(k)
        use_one_thread_in_workers()
        order, part = divmod(k, self.amount.parts)
        try:
            return _scan_part(self.reader, self.videos[order], order, part, self.amount)
        except DataError as error:
            return error


def choose_places(num_frames: int, share: float) -> np.ndarray:
    """Return which frames are read: all, or evenly spaced pairs of neighbours, from the first on.

    In a pair an object can be seen to jump, or to go on under another id.
    """
    if share >= 1:
        return np.arange(num_frames)
    num_pairs = max(1, round(share * num_frames / 2))
    starts = np.linspace(0, max(num_frames - 2, 0), num_pairs).round().astype(int)
    places = np.union1d(starts, starts + 1)
    return places[places < num_frames]


def _scan_part(reader: Reader, video: int, order: int, part: int, amount: Amount) -> VideoScan:
    frames = reader.video(video).frames
    found = VideoScan(video, num_frames=len(frames), unmatched=reader.num_unmatched(video))
    if order % amount.every:
        return found
    chosen = choose_places(len(frames), amount.share)
    pictured = set(_spread(chosen, amount.thumbnails))
    is_aligned = order // amount.every % amount.aligned_every == 0
    aligned = set(_spread(chosen, _ALIGNED_PER_VIDEO + 2)[1:-1]) if is_aligned else set()
    known: set[int] = set()
    rows: list[tuple] = []
    for place in np.array_split(chosen, amount.parts)[part].tolist():
        frame = frames[place]
        masks, own = _read_masks(reader, found, place, frame)
        rows += own
        # files like those before are not looked at again
        if amount.frames or not known.issuperset(masks):
            found.remarks += [(place, remark) for remark in reader.remarks(video, frame)]
        known.update(masks)
        if amount.frames or place in pictured:
            grey = _grey(reader, frame, _THUMBNAIL_SIDE)
            found.decoded += 1
            if place in pictured:
                found.thumbnails.append(Thumbnail(video, place, shrink(grey)))
        if place in aligned:
            _compare(reader, frames, place, masks, found)
    found.rows = np.array(rows, ROW)
    return found


def _spread(places: np.ndarray, count: int) -> list[int]:
    """Return `count` of some places, evenly spaced, from the first to the last."""
    return places[np.linspace(0, len(places) - 1, count).round().astype(int)].tolist()


def _read_masks(
    reader: Reader, found: VideoScan, place: int, frame: AnnotatedFrame
) -> tuple[Any, list[tuple]]:
    """Return the masks of a frame and their `ROW`s; the rest is added to what was found."""
    masks = reader.masks(found.video, frame)
    if isinstance(masks, LabelMap):
        height, width = masks.numbers.shape
    elif masks:
        height, width = next(iter(masks.values())).shape
    else:
        width, height = reader.size(frame)
    rows = measure(masks, place)
    found.places.append(place)
    found.numbers.append(frame.frame_idx)
    found.sizes[width, height] += 1
    found.overlaps += find_overlaps(masks, rows)
    return masks, rows


def _grey(reader: Reader, frame: AnnotatedFrame, at_least: int) -> np.ndarray:
    return cv2.cvtColor(np.asarray(reader.image(frame, at_least)), cv2.COLOR_RGB2GRAY)


def _compare(
    reader: Reader,
    frames: Sequence[AnnotatedFrame],
    place: int,
    masks: Any,
    found: VideoScan,
) -> None:
    """Compare masks with the edges of their frame and of its neighbours."""
    edges = edges_of(_grey(reader, frames[place], _EDGES_SIDE))
    outlines = outlines_of(masks, (edges.shape[1], edges.shape[0]))
    if not outlines.any():
        return
    found.edges.append(edge_map(edges, outlines))
    found.edge_width = edges.shape[1]
    if not 0 < place < len(frames) - 1:
        return
    before, behind = (edges_of(_grey(reader, frames[place + k], _EDGES_SIDE)) for k in (-1, 1))
    if before.shape == behind.shape == edges.shape:
        found.at_own.append(strength(edges, outlines))
        found.beside[-1].append(strength(before, outlines))
        found.beside[1].append(strength(behind, outlines))
