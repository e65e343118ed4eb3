"""Which videos clips can be cut from, how many of each, and where those of validation start."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from ..config import MOST_VAL_CLIPS, DataConfig, clip_length
from ..words import counted
from .known import KnownVideos
from .readers.files import DataError, NoAnnotatedFrameError, name_some
from .readers.reader import Reader
from .readers.remarks import Remark, in_lines

log = logging.getLogger(__name__)

_SCAN_THREADS = 4
_MANY = 2000  # take a minute
# more take longer to hand out than videos that are known take to look at
_MOST_TASKS = 1000


@dataclass(frozen=True, slots=True)
class ClipSource:
    """A video that clips can be cut from.

    Attributes:
        video: Its index in the reader.
        num_frames: Its annotated frames.
        num_clips: Clips of an epoch.
        starts: Where validation clips start, as positions among its annotated frames. The first,
            which training has too, is its first frame with an object.
    """

    video: int
    num_frames: int
    num_clips: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class _Scan:
    """What was found about a video.

    Attributes:
        video: Its index.
        num_starts: Frames that a clip can start at; below 1 the video is too short.
        source: The clips to cut; None: no clip can start at a frame with an object.
        bare: Why no frame has a mask; empty: some have.
        remarks: On the files of its first frame.
    """

    video: int
    num_starts: int
    source: Optional[ClipSource] = None
    bare: str = ""
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """The videos that no clip can be cut from, by name, and why.

    Attributes:
        data: The clips that were to be cut.
        training: Whether they are for training.
        short: Videos with too few frames.
        empty: Videos without an object in any frame that a clip can start at.
        bare: Videos without a frame that has a mask.
        why_bare: Why the first of them has none.
    """

    data: DataConfig
    training: bool
    short: list[str]
    empty: list[str]
    bare: list[str]
    why_bare: str

    def __bool__(self) -> bool:
        return bool(self.short or self.empty or self.bare)

    def __str__(self) -> str:
        data, reasons = self.data, []
        shorter_too = _takes_shorter_clips(data, self.training)
        if self.short:
            setting = "num_frames"
            if not self.training and data.val_num_frames is not None:
                setting = "val_num_frames"
            length = f"data.{setting}={clip_length(data, self.training)}"
            needed = span_of(_fewest_frames(data, self.training), data.frame_stride)
            reasons.append(
                f"{len(self.short)} with fewer annotated frames than the {needed} needed for"
                f" {'a clip of 2 frames with' if shorter_too else length + ' and'}"
                f" data.frame_stride={data.frame_stride} ({name_some(self.short)})"
            )
        if self.empty:
            reasons.append(
                f"{len(self.empty)} with no object on any frame where a clip could start"
                f" ({name_some(self.empty)})"
            )
        if self.bare:
            reasons.append(
                f"{len(self.bare)} without a frame that has a mask ({name_some(self.bare)}):"
                f" {self.why_bare}"
            )
        why = " and ".join(reasons)
        if self.short and not self.training and not shorter_too:
            why += "; with data.val_batch_size=1 shorter clips can be used"
        return why


def _takes_shorter_clips(data: DataConfig, training: bool) -> bool:
    return not training and data.val_batch_size == 1


def _fewest_frames(data: DataConfig, training: bool) -> int:
    length = clip_length(data, training)
    return min(2, length) if _takes_shorter_clips(data, training) else length


def find_clips(
    known: KnownVideos, videos: list[int], data: DataConfig, training: bool
) -> list[ClipSource]:
    """Find the videos that clips can be cut from, with a warning that names the others.

    Reads one frame's masks per video, more where a video starts without an object and where
    validation cuts several clips, and warns of what should be known of the first frame's files.

    Args:
        known: The videos.
        videos: Which of them.
        data: The clips to be cut.
        training: Whether they are for training: validation clips have a length of their own, and
            may be shorter where each is a batch by itself.

    Raises:
        DataError: A file is missing or not usable, or no video is left.
    """
    what = "training" if training else "validation"
    if len(videos) >= _MANY and not known.has_kept:
        log.info("looking through %d %s videos, which later runs need not do", len(videos), what)
    size = 1 + len(videos) // _MOST_TASKS
    parts = [videos[k : k + size] for k in range(0, len(videos), size)]
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        found = pool.map(lambda part: [_scan(known, i, data, training) for i in part], parts)
        scans = list(itertools.chain.from_iterable(found))
    sources = [scan.source for scan in scans if scan.source is not None]
    skipped = _skipped(known.reader, scans, data, training)
    lines = in_lines(remark for scan in scans for remark in scan.remarks)
    if not sources:
        raise DataError(f"no {what} video can be used: {'; '.join([str(skipped), *lines])}")
    if skipped:
        rank_zero_warn(f"skipped {what} videos: {skipped}")
    for line in lines:
        rank_zero_warn(line)
    return sources


def warn_of_unmatched_masks(*parts: KnownVideos) -> None:
    """Warn of the masks without a frame that `find_clips` came across, in one sentence.

    Frames without a mask are usual.
    """
    found = {name: counts for known in parts for name, counts in known.unmatched_masks().items()}
    if not found:
        return
    num_masks = sum(masks for _, masks in found.values())
    text = (
        f"left out {counted(num_masks, 'mask')} without a frame, in {counted(len(found), 'video')}"
        f" ({name_some([*found])})"
    )
    # its other masks may lie on their frames' neighbours, which nothing but pictures would show
    shifted = next((name for name, (frames, masks) in found.items() if frames == masks), None)
    if shifted is not None:
        text += (
            f"; {shifted} has as many frames without a mask, so frames and masks may be counted"
            " from different starts: run `python -m core.data` with these settings and look"
        )
    rank_zero_warn(text)


def _skipped(reader: Reader, scans: list[_Scan], data: DataConfig, training: bool) -> Skipped:
    skipped = Skipped(data, training, short=[], empty=[], bare=[], why_bare="")
    for scan in scans:
        if scan.source is not None:
            continue
        kind = skipped.empty if scan.num_starts >= 1 else skipped.short
        (skipped.bare if scan.bare else kind).append(reader.names[scan.video])
    why_bare = next((scan.bare for scan in scans if scan.bare), "")
    return dataclasses.replace(skipped, why_bare=why_bare)


def _scan(known: KnownVideos, i: int, data: DataConfig, training: bool) -> _Scan:
    try:
        num_frames = known.num_frames(i)
    except NoAnnotatedFrameError as error:
        return _Scan(i, 0, bare=str(error))
    known.num_unmatched(i)  # for `warn_of_unmatched_masks`, which does not wait for files
    num_starts = _num_starts(num_frames, data, training)
    if num_starts < 1:
        return _Scan(i, num_starts)
    remarks = known.remarks(i)
    first = next((start for start in range(num_starts) if known.has_object(i, start)), None)
    if first is None:
        return _Scan(i, num_starts, remarks=remarks)
    span = span_of(clip_length(data, training), data.frame_stride)
    if training:
        num_clips = data.clips_per_video or max(1, num_frames // span)
        source = ClipSource(i, num_frames, num_clips, (first,))
    else:
        starts = _spread(known, i, first, num_frames, span, data.val_clips_per_video)
        source = ClipSource(i, num_frames, len(starts), starts)
    return _Scan(i, num_starts, source, remarks=remarks)


def can_be_cut(known: KnownVideos, i: int, data: DataConfig, training: bool) -> bool:
    """Return whether `find_clips` finds a clip in a video; of one that it refuses too."""
    try:
        num_starts = _num_starts(known.num_frames(i), data, training)
        return any(known.has_object(i, start) for start in range(num_starts))
    except NoAnnotatedFrameError:
        return False
    except DataError:
        return True


def _num_starts(num_frames: int, data: DataConfig, training: bool) -> int:
    """Return at how many frames of a video a clip can start; below 1 the video is too short."""
    return num_frames - span_of(_fewest_frames(data, training), data.frame_stride) + 1


def span_of(num_frames: int, frame_stride: int) -> int:
    """Return over how many frames of a video a clip reaches."""
    return (num_frames - 1) * frame_stride + 1


def _spread(
    known: KnownVideos, i: int, first: int, num_frames: int, span: int, wanted: Optional[int]
) -> tuple[int, ...]:
    """Return where the validation clips of a video start: evenly spaced, with an object each.

    Where a place has no object, the next frame that has one stands for it, and none does if the
    clip would reach into the next one.

    Args:
        known: The videos.
        i: Which of them.
        first: Its first frame with an object, where the first clip starts.
        num_frames: Its annotated frames.
        span: Frames that a clip reaches over.
        wanted: Clips to cut; None: as many as there is room for, at most `MOST_VAL_CLIPS`.
    """
    last = max(first, num_frames - span)
    room = max(1, (num_frames - first) // span)
    count = min(wanted or min(room, MOST_VAL_CLIPS), last - first + 1)
    places = np.linspace(first, last, count).astype(int).tolist()
    return (first, *_with_object(known, i, places, span))


def _with_object(known: KnownVideos, i: int, places: list[int], span: int) -> Iterator[int]:
    """Yield the start of every clip but the first."""
    for place, following in itertools.pairwise([*places[1:], places[-1] + span]):
        candidates = range(place, max(place, following - span) + 1)
        start = next((start for start in candidates if known.has_object(i, start)), None)
        if start is not None:
            yield start
