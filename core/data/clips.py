"""Clips cut from a reader's videos, or drawn, as the official ``VideoDatapoint``.

A training item is a pure function of (seed, epoch, index): it draws from generators of its own and
leaves the global ones alone.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from training.dataset.vos_raw_dataset import VOSFrame, VOSVideo
from training.dataset.vos_sampler import RandomUniformSampler
from training.utils.data_utils import VideoDatapoint

from ..config import DataConfig
from .augmentation import augment_clip
from .datapoint import AUGMENT, CLIP, SYNTHETIC_TRAIN, SYNTHETIC_VAL, make_generator, to_datapoint
from .readers.coco_video import CocoVideoReader
from .readers.files import DataError
from .readers.folders import VosFolderReader
from .readers.sav import SavReader
from .synthetic import make_clip

Reader = Union[VosFolderReader, SavReader, CocoVideoReader]


_SCAN_THREADS = 4


def _epoch_and_index(key: Union[int, tuple[int, int]]) -> tuple[int, int]:
    return key if isinstance(key, tuple) else (0, key)


def _num_frames(data: DataConfig, training: bool) -> int:
    return data.num_frames if training or data.val_num_frames is None else data.val_num_frames


class SyntheticDataset(Dataset):
    """Clips of moving shapes, drawn when they are asked for.

    Training clips depend on (seed, epoch, index), validation clips on (seed, index) alone and come
    from a generator of their own, so that they are never seen in training.
    """

    def __init__(self, data: DataConfig, image_size: int, seed: int, training: bool) -> None:
        """See the class."""
        self.data, self.image_size, self.seed, self.training = data, image_size, seed, training
        options = data.synthetic
        self.num_clips = options.num_train_clips if training else options.num_val_clips
        self.num_frames = _num_frames(data, training)

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, key: Union[int, tuple[int, int]]) -> VideoDatapoint:
        """Return clip `index` of epoch `epoch`; `key` is (epoch, index) or an index."""
        epoch, index = _epoch_and_index(key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        data, size = self.data, self.image_size
        if self.training:
            rng = make_generator(SYNTHETIC_TRAIN, self.seed, epoch, index)
        else:
            rng = make_generator(SYNTHETIC_VAL, self.seed, index)
        images, masks = make_clip(
            data.synthetic, self.num_frames, data.frame_stride, size, data.max_objects, rng
        )
        if self.training:
            rng = make_generator(AUGMENT, self.seed, epoch, index)
            images, masks = augment_clip(images, masks, data.augmentation, rng)
        return to_datapoint(
            images,
            masks,
            object_ids=list(range(1, masks.shape[1] + 1)),
            frame_numbers=[t * data.frame_stride for t in range(self.num_frames)],
            video_id=index,
            original_size=(size, size),
        )

    def clip_name(self, video_id: int) -> str:
        """Return the name of clip `video_id`."""
        return f"synthetic_{'train' if self.training else 'val'}_{video_id:05d}"

    def object_names(self, video_id: int) -> Optional[dict[int, str]]:
        """Return None: shapes have no names."""
        return None


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
            self.known[frame_idx] = {key: torch.tensor(m.any()) for key, m in masks.items()}
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
        epoch, index = _epoch_and_index(key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        video_id = index % len(self.sources)
        source = self.sources[video_id]
        video = self.reader.video(source.video)
        if self.training:
            frames, object_ids = self._sample(video, source, epoch, index)
        else:
            frames, object_ids = self._first_clip(video, source)
        if isinstance(self.reader, CocoVideoReader):
            object_ids = list(range(self.reader.num_categories))

        images, masks, original_size = self._load(source.video, frames, object_ids)
        if self.training:
            rng = make_generator(AUGMENT, self.seed, epoch, index)
            aspect = original_size[1] / original_size[0]
            images, masks = augment_clip(images, masks, self.data.augmentation, rng, aspect)
        numbers = [frame.frame_idx for frame in frames]
        return to_datapoint(images, masks, object_ids, numbers, video_id, original_size)

    def _first_clip(self, video: VOSVideo, source: ClipSource) -> tuple[list[VOSFrame], list[int]]:
        stride = self.data.frame_stride
        end = source.first + _num_frames(self.data, self.training) * stride
        frames = video.frames[source.first : end : stride]
        present = _Presence(self.reader, source.video, frames[:1]).load(frames[0].frame_idx)
        visible = sorted(key for key, there in present.items() if there)
        return frames, visible[: self.data.max_objects]

    def _sample(
        self, video: VOSVideo, source: ClipSource, epoch: int, index: int
    ) -> tuple[list[VOSFrame], list[int]]:
        """Draw a clip with the official sampler, from one of the stride's phases."""
        data, rng = self.data, make_generator(CLIP, self.seed, epoch, index)
        num_starts = _num_starts(video, data.num_frames, data.frame_stride)
        # choosing the phase through a start weighs every start alike
        phase = int(rng.integers(num_starts)) % data.frame_stride
        frames = video.frames[phase :: data.frame_stride]
        presence = _Presence(self.reader, source.video, frames)
        starts = range(phase, num_starts, data.frame_stride)
        candidates = [video.frames[start].frame_idx for start in starts]
        strided = VOSVideo(video.video_name, video.video_id, frames)
        sampler = RandomUniformSampler(data.num_frames, data.max_objects)
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

    def _load(
        self, video: int, frames: list[VOSFrame], object_ids: list[int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Return frames uint8 [T, S, S, 3], masks bool [T, O, S, S] and (height, width)."""
        size = self.image_size
        images = np.empty((len(frames), size, size, 3), np.uint8)
        masks = np.zeros((len(frames), len(object_ids), size, size), bool)
        for t, frame in enumerate(frames):
            image = self.reader.image(frame)
            if t == 0:
                original_size = (image.height, image.width)
            images[t] = np.asarray(image.resize((size, size), Image.BILINEAR))
            segments = self.reader.masks(video, frame)
            for o, object_id in enumerate(object_ids):
                if object_id in segments:
                    mask = Image.fromarray(segments[object_id].astype(np.uint8))
                    masks[t, o] = np.asarray(mask.resize((size, size), Image.NEAREST)) > 0
        return images, masks, original_size

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


def find_clips(
    reader: Reader, videos: list[int], data: DataConfig, training: bool
) -> list[ClipSource]:
    """Find the videos that clips can be cut from, with a warning that names the others.

    Reads one mask per video, more where a video starts without an object.

    Args:
        reader: The videos.
        videos: Which of them.
        data: The clips to be cut.
        training: Whether they are for training: validation clips have a length of their own, and
            may be shorter where each is a batch by itself.

    Raises:
        DataError: A file is missing or not usable, or no video is left.
    """
    num_frames, stride = _num_frames(data, training), data.frame_stride
    as_it_is = not training and data.val_batch_size == 1
    fewest = 2 if as_it_is else num_frames

    def first_start(i: int) -> Optional[int]:
        video = reader.video(i)
        num_starts = _num_starts(video, fewest, stride)
        if num_starts < 1:
            return None
        # the header is compared with the mask's before the sampler ever sees the video
        reader.size(video.frames[0])
        for start in range(num_starts):
            masks = reader.masks(i, video.frames[start])
            if any(mask.any() for mask in masks.values()):
                return start
        return -1

    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        starts = list(pool.map(first_start, videos))
    names = [reader.names[i] for i in videos]
    short = [name for name, start in zip(names, starts, strict=True) if start is None]
    empty = [name for name, start in zip(names, starts, strict=True) if start == -1]
    what = "training" if training else "validation"
    setting = "num_frames" if training or data.val_num_frames is None else "val_num_frames"
    length = "a clip of 2 frames with" if as_it_is else f"data.{setting}={num_frames}"
    reasons = []
    if short:
        reasons.append(
            f"{len(short)} with fewer than the {(fewest - 1) * stride + 1} annotated frames that"
            f" {length} data.frame_stride={stride} needs ({name_some(short)})"
        )
    if empty:
        reasons.append(
            f"{len(empty)} without any object in a frame that a clip can start at"
            f" ({name_some(empty)})"
        )
    why = " and ".join(reasons)
    if short and not training and not as_it_is:
        why += "; data.val_batch_size=1 takes shorter clips too"
    sources = [
        ClipSource(i, start)
        for i, start in zip(videos, starts, strict=True)
        if start is not None and start >= 0
    ]
    if not sources:
        raise DataError(f"no {what} video can be used, expected at least one: found {why}")
    if reasons:
        rank_zero_warn(f"skipped {what} videos: {why}")
    return sources


def name_some(names: list[str], limit: int = 5) -> str:
    """Join the first names for a message."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
