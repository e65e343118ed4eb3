"""Meta's ``VideoDatapoint`` from arrays; whose generator draws what."""

from typing import Union

import cv2
import numpy as np
import torch
from tensordict import tensorclass
from torch import Tensor
from torch.utils.data import get_worker_info
from training.utils.data_utils import (
    BatchedVideoDatapoint,
    Frame,
    Object,
    VideoDatapoint,
    collate_fn,
)

from ..official import IMAGENET_MEAN, IMAGENET_STD
from ..words import counted

# In the frames' own precision: double would make every frame double.
_MEAN, _STD = (np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))

# What a generator is for: the first entry of its seed, so that no two ever draw the same.
ORDER, CLIP, AUGMENT, SYNTHETIC_TRAIN, SYNTHETIC_VAL, TURNS, SOURCE = range(7)


# The id of what is no object: regions where nobody says what is there.
IGNORED = -(2**62)


@tensorclass
class MetaDataWithRegions:
    """The official metadata of a batch, and where its masks say nothing.

    Attributes:
        unique_objects_identifier: See ``BatchedVideoMetaData``.
        frame_orig_size: See ``BatchedVideoMetaData``.
        ignored: bool [T, B, S, S].
    """

    unique_objects_identifier: Tensor
    frame_orig_size: Tensor
    ignored: Tensor


def collate(clips: list[VideoDatapoint]) -> BatchedVideoDatapoint:
    """Return clips as an official batch; the objects `IGNORED` become ``metadata.ignored``."""
    batch = collate_fn(clips, dict_key="all")
    metadata = batch.metadata
    is_region = metadata.unique_objects_identifier[0, :, 1] == IGNORED
    if not is_region.any():
        return batch
    regions = MetaDataWithRegions(
        unique_objects_identifier=metadata.unique_objects_identifier[:, ~is_region],
        frame_orig_size=metadata.frame_orig_size[:, ~is_region],
        ignored=batch.masks[:, is_region],  # of each clip one, in their order
    )
    return BatchedVideoDatapoint(
        img_batch=batch.img_batch,
        obj_to_frame_idx=batch.obj_to_frame_idx[:, ~is_region],
        masks=batch.masks[:, ~is_region],
        metadata=regions,
        dict_key=batch.dict_key,
        batch_size=batch.batch_size,
    )


def make_generator(purpose: int, seed: int, *numbers: int) -> np.random.Generator:
    """Return a generator of its own for each purpose, seed and numbers."""
    return np.random.default_rng([purpose, seed % 2**63, *numbers])


def seed_of_source(seed: int, position: int) -> int:
    """Return the seed of one of several data sets, no two of which draw the same."""
    return int(make_generator(SOURCE, seed, position).integers(2**63))


def epoch_and_index(key: Union[int, tuple[int, int]], num_clips: int) -> tuple[int, int]:
    """Return what a data set is asked for: (epoch, index); an index alone is of epoch 0.

    Raises:
        IndexError: There is no such clip.
    """
    epoch, index = key if isinstance(key, tuple) else (0, key)
    if not 0 <= index < num_clips:
        raise IndexError(index)
    return epoch, index


def use_one_thread_in_workers() -> None:
    """Keep OpenCV to one thread in a worker of a loader, as torch keeps itself."""
    if get_worker_info() is not None:
        cv2.setNumThreads(0)


def count_clips(count: int, training: bool) -> str:
    """Return how many clips of a kind there are, in words."""
    return counted(count, "training clip" if training else "validation clip")


def to_datapoint(
    images: np.ndarray,
    masks: np.ndarray,
    object_ids: list[int],
    frame_numbers: list[int],
    video_id: int,
    original_size: tuple[int, int],
) -> VideoDatapoint:
    """Build the official datapoint from uint8 frames [T, S, S, 3] and bool masks [T, O, S, S].

    Its frames stay bytes; see `normalise`.
    """
    tensors = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    segments = torch.from_numpy(np.ascontiguousarray(masks))
    frames = [
        Frame(
            data=tensors[t],
            objects=[
                Object(object_id=object_id, frame_index=number, segment=segments[t, o])
                for o, object_id in enumerate(object_ids)
            ],
        )
        for t, number in enumerate(frame_numbers)
    ]
    return VideoDatapoint(frames=frames, video_id=video_id, size=original_size)


def normalise(frames: Tensor) -> Tensor:
    """Return bytes as the floats that SAM 2 takes.

    Args:
        frames: uint8 [..., 3, H, W]. Left alone.

    Returns:
        float32, normalised with the statistics of ImageNet, on the same device.
    """
    return _look_up(frames) if frames.device.type == "cpu" else _in_floats(frames)


def _in_floats(frames: Tensor) -> Tensor:
    floats = frames.float().div_(255)
    # with plain numbers: a copy of them to the device would be waited for
    for channel, (mean, std) in enumerate(zip(_MEAN.tolist(), _STD.tolist(), strict=True)):
        floats.select(-3, channel).sub_(mean).div_(std)
    return floats


def _look_up(frames: Tensor) -> Tensor:
    """Look every byte up in a table per channel: one pass over the pixels."""
    levels = np.arange(256, dtype=np.float32)[:, None]
    tables = ((levels / 255 - _MEAN) / _STD).T
    # NumPy asks for large pages, without which making room takes longer than the rest
    floats = np.empty(frames.shape, np.float32)
    for channel, table in enumerate(tables):
        for place in np.ndindex(frames.shape[:-3]):
            plane = (*place, channel)
            cv2.LUT(frames[plane].numpy(), table, dst=floats[plane])
    return torch.from_numpy(floats)
