"""Clips cut from a reader's videos, as the official ``VideoDatapoint``.

A training item is a pure function of (seed, epoch, index): it draws from generators of its own and
leaves the global ones alone.
"""

import dataclasses
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset
from training.dataset.vos_raw_dataset import VOSFrame, VOSVideo
from training.dataset.vos_sampler import RandomUniformSampler
from training.utils.data_utils import VideoDatapoint

from ..config import DataConfig
from .augmentation import MaskedFrame, Variation, draw_variation, vary_clip
from .datapoint import (
    AUGMENT,
    CLIP,
    clip_length,
    epoch_and_index,
    make_generator,
    to_datapoint,
    use_one_thread_in_workers,
)
from .readers.files import DataError, NoAnnotatedFrameError, name_some
from .readers.label_maps import ids_present
from .readers.reader import Reader
from .readers.remarks import Remark, in_lines
from .warp import needed_side

_SCAN_THREADS = 4


@dataclass
class ClipSource:
    """A video of the reader that clips can be cut from, and its first frame with an object."""

    video: int
    first: int


class _Presence:
    """The reader's masks as the official sampler sees them: whether each object is there.

    The sampler loads the masks of every start that it tries, twice; this remembers a flag each.
    """

    def __init__(self, reader: Reader, video: int, frames: list[VOSFrame]) -> None:
        self.reader, self.video = reader, video
        self.frames = {frame.frame_idx: frame for frame in frames}
        self.known: dict[int, dict[int, Tensor]] = {}

    def load(self, frame_idx: int) -> dict[int, Tensor]:
        if frame_idx not in self.known:
            masks = self.reader.masks(self.video, self.frames[frame_idx])
            self.known[frame_idx] = {
                key: torch.tensor(there) for key, there in ids_present(masks).items()
            }
        return self.known[frame_idx]


class ClipDataset(Dataset):
    """Clips of a reader's videos.

    Training: `data.clips_per_video` random clips per video and epoch, each starting at a frame with
    an object; of its objects at most `data.max_objects`, drawn at random by the official sampler.
    Validation: one clip of `data.val_num_frames` per video, from its first frame with an object and
    with the objects of the lowest ids. Category layout: always all slots, empty ones too.

    Args:
        reader: Where frames and masks come from.
        sources: The videos to use, as `find_clips` returned them.
        data: How clips are cut and augmented.
        image_size: S.
        seed: Seeds what is drawn.
        training: Random and augmented, or not.
    """

    def __init__(
        self,
        reader: Reader,
        sources: list[ClipSource],
        data: DataConfig,
        image_size: int,
        seed: int,
        training: bool,
    ) -> None:
        """See the class."""
        self.reader, self.sources, self.data = reader, sources, data
        self.image_size, self.seed, self.training = image_size, seed, training

    def __len__(self) -> int:
        return len(self.sources) * (self.data.clips_per_video if self.training else 1)

    def __getitem__(self, key: Union[int, tuple[int, int]]) -> VideoDatapoint:
        """Return clip `index` of epoch `epoch`; `key` is (epoch, index) or an index."""
        use_one_thread_in_workers()
        epoch, index = epoch_and_index(key, len(self))
        video_id = index % len(self.sources)
        source = self.sources[video_id]
        video = self.reader.video(source.video)
        if self.training:
            frames, object_ids = self._sample(video, source, epoch, index)
        else:
            frames, object_ids = self._first_clip(video, source)
        if self.reader.num_categories is not None:
            object_ids = list(range(self.reader.num_categories))

        variation = Variation()
        if self.training:
            rng = make_generator(AUGMENT, self.seed, epoch, index)
            variation = draw_variation(self.data.augmentation, len(frames), rng)
        side = self.image_size
        images, masks = vary_clip(
            self._read(source.video, frames, needed_side(side, variation.movement)),
            len(frames),
            object_ids,
            variation,
            side,
        )
        width, height = self.reader.size(frames[0])
        numbers = [frame.frame_idx for frame in frames]
        return to_datapoint(images, masks, object_ids, numbers, video_id, (height, width))

    def _first_clip(self, video: VOSVideo, source: ClipSource) -> tuple[list[VOSFrame], list[int]]:
        stride = self.data.frame_stride
        end = source.first + clip_length(self.data, self.training) * stride
        frames = video.frames[source.first : end : stride]
        present = _Presence(self.reader, source.video, frames[:1]).load(frames[0].frame_idx)
        visible = sorted(key for key, there in present.items() if there)
        return frames, visible[: self.data.max_objects]

    def _sample(
        self, video: VOSVideo, source: ClipSource, epoch: int, index: int
    ) -> tuple[list[VOSFrame], list[int]]:
        """Draw a clip with the official sampler, from one of the stride's phases."""
        data, rng = self.data, make_generator(CLIP, self.seed, epoch, index)
        length = clip_length(data, self.training)
        num_starts = _num_starts(video, length, data.frame_stride)
        # choosing the phase through a start weighs every start alike
        phase = int(rng.integers(num_starts)) % data.frame_stride
        frames = video.frames[phase :: data.frame_stride]
        presence = _Presence(self.reader, source.video, frames)
        starts = range(phase, num_starts, data.frame_stride)
        # backwards alone, clips start where they would end
        shift = (length - 1) * data.frame_stride if data.reverse_time_prob == 1 else 0
        candidates = [video.frames[start + shift].frame_idx for start in starts]
        strided = VOSVideo(video.video_name, video.video_id, frames)
        sampler = RandomUniformSampler(length, data.max_objects, data.reverse_time_prob)
        # the official sampler draws from the global generator, which is nobody's but the user's
        state = random.getstate()
        random.seed(int(rng.integers(2**63)))
        try:
            sampled = sampler.sample(strided, _StopWhenEmpty(presence, candidates))
            return sampled.frames, sampled.object_ids
        except _NoObjects:
            # objects in the starts of other phases only: take the start that is known
            return self._first_clip(video, source)
        finally:
            random.setstate(state)

    def _read(self, video: int, frames: list[VOSFrame], at_least: int) -> Iterator[MaskedFrame]:
        for frame in frames:
            image = np.asarray(self.reader.image(frame, at_least))
            size = self.reader.size(frame)
            yield MaskedFrame(image, size, self.reader.masks(video, frame))

    def clip_name(self, video_id: int) -> str:
        """Return the name of the video of index `video_id` in this data set."""
        return self.reader.names[self.sources[video_id].video]

    def object_names(self, video_id: int) -> Optional[dict[int, str]]:
        """Return {object id: name} of that video, None when there are no names."""
        return self.reader.object_names(self.sources[video_id].video)


class _NoObjects(Exception):
    """No frame that the official sampler could start at has an object."""


class _StopWhenEmpty:
    """Ends the official sampler's 1000 tries when every start was seen to be empty."""

    def __init__(self, presence: _Presence, starts: list[int]) -> None:
        self.presence, self.left = presence, set(starts)

    def load(self, frame_idx: int) -> dict[int, Tensor]:
        present = self.presence.load(frame_idx)
        if not any(present.values()):
            self.left.discard(frame_idx)
            if not self.left:
                raise _NoObjects
        return present


def _num_starts(video: VOSVideo, num_frames: int, frame_stride: int) -> int:
    return len(video.frames) - (num_frames - 1) * frame_stride


@dataclass(frozen=True)
class _Scan:
    """What was found about a video.

    Attributes:
        video: Its index.
        num_starts: Frames that a clip can start at; below 1 the video is too short.
        first: The first of these frames with an object; None: there is none.
        bare: Why no frame has a mask; empty: some have.
        remarks: On the files of its first frame.
    """

    video: int
    num_starts: int
    first: Optional[int]
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
            needed = (_fewest_frames(data, self.training) - 1) * data.frame_stride + 1
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
    reader: Reader, videos: list[int], data: DataConfig, training: bool
) -> list[ClipSource]:
    """Find the videos that clips can be cut from, with a warning that names the others.

    Reads one frame's masks per video, more where a video starts without an object, and warns of
    what should be known of the first frame's files.

    Args:
        reader: The videos.
        videos: Which of them.
        data: The clips to be cut.
        training: Whether they are for training: validation clips have a length of their own, and
            may be shorter where each is a batch by itself.

    Raises:
        DataError: A file is missing or not usable, or no video is left.
    """
    fewest, what = _fewest_frames(data, training), "training" if training else "validation"
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        scans = list(pool.map(lambda i: _scan(reader, i, fewest, data.frame_stride), videos))
    sources = [ClipSource(scan.video, scan.first) for scan in scans if scan.first is not None]
    skipped = _skipped(reader, scans, data, training)
    lines = in_lines(remark for scan in scans for remark in scan.remarks)
    if not sources:
        raise DataError(f"no {what} video can be used: {'; '.join([str(skipped), *lines])}")
    if skipped:
        rank_zero_warn(f"skipped {what} videos: {skipped}")
    for line in lines:
        rank_zero_warn(line)
    return sources


def _skipped(reader: Reader, scans: list[_Scan], data: DataConfig, training: bool) -> Skipped:
    skipped = Skipped(data, training, short=[], empty=[], bare=[], why_bare="")
    for scan in scans:
        if scan.first is not None:
            continue
        kind = skipped.empty if scan.num_starts >= 1 else skipped.short
        (skipped.bare if scan.bare else kind).append(reader.names[scan.video])
    why_bare = next((scan.bare for scan in scans if scan.bare), "")
    return dataclasses.replace(skipped, why_bare=why_bare)


def _scan(reader: Reader, i: int, num_frames: int, frame_stride: int) -> _Scan:
    """Look for the first frame of a video that a clip can start at and that has an object."""
    try:
        video = reader.video(i)
    except NoAnnotatedFrameError as error:
        return _Scan(i, 0, None, bare=str(error))
    num_starts = _num_starts(video, num_frames, frame_stride)
    if num_starts < 1:
        return _Scan(i, num_starts, None)
    # the header is compared with the mask's before the sampler ever sees the video
    reader.size(video.frames[0])
    remarks = tuple(reader.remarks(i, video.frames[0]))
    for start in range(num_starts):
        if any(ids_present(reader.masks(i, video.frames[start])).values()):
            return _Scan(i, num_starts, start, remarks=remarks)
    return _Scan(i, num_starts, None, remarks=remarks)
