"""Clips cut from a reader's videos, as the official ``VideoDatapoint``.

A training item is a pure function of (seed, epoch, index): it draws from generators of its own and
leaves the global ones alone.
"""

import random
from collections.abc import Iterator
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from training.dataset.vos_raw_dataset import VOSFrame, VOSVideo
from training.dataset.vos_sampler import MAX_RETRIES, RandomUniformSampler
from training.utils.data_utils import VideoDatapoint

from ..config import MOST_VAL_CLIPS, DataConfig, clip_length
from ..words import counted
from .augmentation import MaskedFrame, Variation, draw_variation, vary_clip
from .datapoint import (
    AUGMENT,
    CLIP,
    IGNORED,
    count_clips,
    epoch_and_index,
    make_generator,
    to_datapoint,
    use_one_thread_in_workers,
)
from .finding import ClipSource, span_of
from .readers.files import DataError
from .readers.label_maps import ids_present
from .readers.reader import MarksRegions, Reader
from .warp import needed_side


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
    """Clips of a reader's videos: one of each video, then the second ones, and so on.

    Training: `data.clips_per_video` random clips per video and epoch, each starting at a frame with
    an object; of its objects at most `data.max_objects`, drawn at random by the official sampler.
    Their video id is the video's position in `sources`.
    Validation: clips of `data.val_num_frames` frames, from frames with an object that `find_clips`
    chose and with the objects of the lowest ids. Their video id is the clip's index.
    Category layout: always all slots, empty ones too.

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
        self._clips = _in_rounds([source.num_clips for source in sources])
        self._marks_regions = isinstance(reader, MarksRegions)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, key: Union[int, tuple[int, int]]) -> VideoDatapoint:
        """Return clip `index` of epoch `epoch`; `key` is (epoch, index) or an index."""
        use_one_thread_in_workers()
        epoch, index = epoch_and_index(key, len(self))
        position, round_number = self._clips[index].tolist()
        source = self.sources[position]
        video = self.reader.video(source.video)
        if self.training:
            frames, object_ids = self._sample(video, source, epoch, index)
        else:
            frames, object_ids = self._clip_at(video, source, source.starts[round_number])
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
            marks_regions=self._marks_regions,
        )
        width, height = self.reader.size(frames[0])
        numbers = [frame.frame_idx for frame in frames]
        video_id = position if self.training else index
        ids = [*object_ids, IGNORED] if self._marks_regions else object_ids
        return to_datapoint(images, masks, ids, numbers, video_id, (height, width))

    def _clip_at(
        self, video: VOSVideo, source: ClipSource, start: int
    ) -> tuple[list[VOSFrame], list[int]]:
        """Return the clip that starts at a frame which had an object when clips were looked for.

        Files may have been written again since: the next frame that has one stands for it then.
        """
        stride, length = self.data.frame_stride, clip_length(self.data, self.training)
        last = max(0, len(video.frames) - span_of(length, stride))
        for position in dict.fromkeys((start, *range(start, last + 1), *range(last + 1))):
            frames = video.frames[position : position + length * stride : stride]
            if visible := self._visible(source.video, frames[:1]):
                return frames, visible[: self.data.max_objects]
        raise DataError(
            f"video {video.video_name} has no object left on any frame where a clip could start,"
            " but had some when the run started: its masks were changed"
        )

    def _visible(self, video: int, frames: list[VOSFrame]) -> list[int]:
        """Return the objects on the first of some frames, none where there is no frame."""
        if not frames:
            return []
        present = ids_present(self.reader.masks(video, frames[0]))
        return sorted(key for key, there in present.items() if there)

    def _sample(
        self, video: VOSVideo, source: ClipSource, epoch: int, index: int
    ) -> tuple[list[VOSFrame], list[int]]:
        """Draw a clip with the official sampler, from one of the stride's phases."""
        data, rng = self.data, make_generator(CLIP, self.seed, epoch, index)
        length = clip_length(data, self.training)
        num_starts = len(video.frames) - span_of(length, data.frame_stride) + 1
        if num_starts < 1:
            raise DataError(
                f"video {video.video_name} has only {len(video.frames)} annotated frames left, but"
                f" had {source.num_frames} when the run started: its files were changed"
            )
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
            # few starts have objects, or those of other phases only: take the one that is known
            return self._clip_at(video, source, source.starts[0])
        finally:
            random.setstate(state)

    def _read(self, video: int, frames: list[VOSFrame], at_least: int) -> Iterator[MaskedFrame]:
        for frame in frames:
            image = np.asarray(self.reader.image(frame, at_least))
            size, masks = self.reader.size(frame), self.reader.masks(video, frame)
            reader = self.reader
            ignored = reader.ignored(video, frame) if isinstance(reader, MarksRegions) else None
            yield MaskedFrame(image, size, masks, ignored)

    @property
    def amount(self) -> str:
        """Say how many clips of how many videos there are, for the table at the start."""
        count = len(self.sources)
        text = f"{count_clips(len(self), self.training)} of {counted(count, 'video')}"
        by_length = not self.training and self.data.val_clips_per_video is None
        if by_length and any(source.num_clips == MOST_VAL_CLIPS for source in self.sources):
            text += f" (at most {MOST_VAL_CLIPS} of each: data.val_clips_per_video)"
        return text

    def clip_name(self, video_id: int) -> str:
        """Return the name of a video, with the clip's number where validation has several of it.

        Args:
            video_id: ``metadata.unique_objects_identifier[..., 0]``.
        """
        position, round_number = self._place(video_id)
        source = self.sources[position]
        name = self.reader.names[source.video]
        if self.training or source.num_clips == 1:
            return name
        return f"{name} (clip {round_number + 1} of {source.num_clips})"

    def object_names(self, video_id: int) -> Optional[dict[int, str]]:
        """Return {object id: name} of that video, None when there are no names."""
        return self.reader.object_names(self.sources[self._place(video_id)[0]].video)

    def _place(self, video_id: int) -> tuple[int, int]:
        """Return the position of a video in `sources`, and which of its clips it is about."""
        if self.training:
            return video_id, 0
        position, round_number = self._clips[video_id].tolist()
        return position, round_number


def _in_rounds(num_clips: list[int]) -> np.ndarray:
    """Return (video, clip) of every clip, int32 [N, 2]: all first clips, then all second ones."""
    videos = np.repeat(np.arange(len(num_clips), dtype=np.int32), num_clips)
    firsts = np.cumsum(num_clips) - num_clips
    rounds = np.arange(len(videos), dtype=np.int32) - np.repeat(firsts, num_clips)
    return np.stack([videos, rounds], 1)[np.lexsort((videos, rounds))].astype(np.int32)


class _NoObjects(Exception):
    """The official sampler finds no frame to start at that has an object."""


class _StopWhenEmpty:
    """Ends the official sampler's tries when every start was seen to be empty, or in the last one.

    The sampler itself would end with an exception that says no more than that there is no object.
    """

    def __init__(self, presence: _Presence, starts: list[int]) -> None:
        self.presence, self.left = presence, set(starts)
        # each try loads the masks of its start twice
        self.loads_left = 2 * MAX_RETRIES

    def load(self, frame_idx: int) -> dict[int, Tensor]:
        present = self.presence.load(frame_idx)
        self.loads_left -= 1
        if not any(present.values()):
            self.left.discard(frame_idx)
            if not self.left or self.loads_left < 2:
                raise _NoObjects
        return present
