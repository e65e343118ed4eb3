"""Annotated videos as official ``BatchedVideoDatapoint`` batches.

A training item is a pure function of (seed, epoch, index), whatever the number of workers and the
state of the global generators: the sampler hands out (epoch, index) pairs, and every item draws
from generators of its own.
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler
from training.utils.data_utils import collate_fn

from ..config import DataConfig
from .clips import ClipDataset, Reader, SyntheticDataset, find_clips, name_some
from .datapoint import ORDER, make_generator
from .readers.coco_video import CocoVideoReader
from .readers.files import DataError
from .readers.folders import VosFolderReader
from .readers.sav import SavReader

__all__ = ["ClipDataset", "DataError", "SyntheticDataset", "VideoDataModule"]


class _ClipSampler(Sampler):
    """(epoch, index) pairs: this rank's share of an order that depends on (seed, epoch) alone.

    All ranks get equally many, by repeating the first ones at the end.
    """

    def __init__(self, num_clips: int, seed: int, shuffle: bool) -> None:
        self.num_clips, self.seed, self.shuffle = num_clips, seed, shuffle
        self.lightning_epoch = 0
        self.shift = 0  # the epoch minus Lightning's
        self.skip = 0  # so many of the next iteration's are left out

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration belongs to."""
        return self.lightning_epoch + self.shift

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self.lightning_epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_clips // _world()[1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world_size = _world()
        order = np.arange(self.num_clips)
        if self.shuffle:
            order = make_generator(ORDER, self.seed, self.epoch).permutation(order)
        order = np.resize(order, len(self) * world_size)[rank::world_size]
        pairs = [(self.epoch, int(index)) for index in order[self.skip :]]
        self.skip = 0
        return iter(pairs)


def _world() -> tuple[int, int]:
    """Return (rank, number of ranks) as of now: loaders may be built before the group is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _ResumableLoader(DataLoader):
    """A DataLoader that continues in the middle of an epoch.

    Lightning saves and loads the state of loaders that have one. What counts as done are the
    batches that were trained on, not those that were fetched ahead. Lightning's own count of epochs
    and batches is read as differences alone: resumed at the end of an epoch it may count an epoch
    too many, or end the next one after a single batch, and nothing is to be lost or seen twice.
    """

    def __init__(
        self, *args: Any, progress: Callable[[], Optional[tuple[int, int]]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._progress = progress
        self._resume: Optional[dict[str, int]] = None
        self._epoch: Optional[int] = None  # of the latest iteration
        self._first, self._yielded, self._trained_before = 0, 0, 0

    def __iter__(self) -> Iterator[Any]:
        # a generator: Lightning makes iterators before it sets the epoch, and the epoch must be
        # known when the first batch is asked for
        sampler, first, progress = self.sampler, 0, self._progress()
        state = self._resume
        if state is None and progress is not None and self._epoch == sampler.epoch - 1:
            if self._yielded < min(len(self), progress[1]):
                state = {"epoch": self._epoch, "batches": self._yielded}
        if state is not None:
            sampler.shift = state["epoch"] - sampler.lightning_epoch
            first, self._resume = state["batches"], None
        sampler.skip = first * self.batch_size
        self._epoch, self._first, self._yielded = sampler.epoch, first, first
        self._trained_before = 0 if progress is None else progress[0]
        for batch in super().__iter__():
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were trained on."""
        if self._resume is not None:
            return dict(self._resume)
        epoch = self.sampler.epoch
        if self._epoch != epoch:
            return {"epoch": epoch, "batches": 0}
        progress, per_epoch, batches = self._progress(), len(self), self._yielded
        if progress is not None:
            batches = min(batches, self._first + progress[0] - self._trained_before)
            per_epoch = min(per_epoch, progress[1])
        if batches >= per_epoch:
            return {"epoch": epoch + 1, "batches": 0}
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from what `state_dict` returned."""
        self._resume = {key: int(state_dict[key]) for key in ("epoch", "batches")}


class VideoDataModule(LightningDataModule):
    """Training and validation clips of a data set as official batches.

    Batches are ``BatchedVideoDatapoint``: `img_batch` float32 [T, B, 3, S, S], ImageNet-normalised;
    `masks` bool [T, O, S, S], video-major; `metadata.unique_objects_identifier` [T, O, 3] = (index
    of the clip's video in its data set, object id or category slot, original frame number).

    Ranks are told apart by ``torch.distributed`` alone: give the Trainer
    ``use_distributed_sampler=False``. Under DDP validation is padded by repeating clips, so that
    metrics must count each video index once.

    Args:
        data: Where the clips come from and how they are cut.
        image_size: S, ``model.image_size``.
        seed: Seeds order, clips, synthetic clips and augmentation.

    Attributes:
        category_layout: Whether every video has one mask slot per category.
        category_names: The categories in slot order; None for object layouts. Known after `setup`.
        num_categories: Slots per video; None for object layouts. Known after `setup`.
    """

    def __init__(self, data: DataConfig, image_size: int, seed: int) -> None:
        """See the class."""
        super().__init__()
        self.data, self.image_size, self.seed = data, image_size, seed
        self.category_layout = data.source == "coco_video"
        self.category_names: Optional[list[str]] = None
        self.num_categories: Optional[int] = None
        self.datasets: dict[str, Union[SyntheticDataset, ClipDataset]] = {}

    def setup(self, stage: Optional[str] = None) -> None:
        """Read the data set's structure; later calls do nothing.

        Raises:
            DataError: The data set cannot be used; the message names the setting or file.
        """
        if self.datasets:
            return
        if self.data.source == "synthetic":
            self.datasets = {
                name: SyntheticDataset(self.data, self.image_size, self.seed, name == "train")
                for name in ("train", "val")
            }
            return
        train_reader, val_reader, train_videos, val_videos = _split(self.data)
        if self.category_layout:
            self.category_names = train_reader.category_names
            self.num_categories = train_reader.num_categories
        train = find_clips(train_reader, train_videos, self.data, training=True)
        val = find_clips(val_reader, val_videos, self.data, training=False)
        parts = {"train": (train_reader, train), "val": (val_reader, val)}
        self.datasets = {
            name: ClipDataset(
                reader, sources, self.data, self.image_size, self.seed, name == "train"
            )
            for name, (reader, sources) in parts.items()
        }

    def train_dataloader(self) -> DataLoader:
        """Return shuffled clips; the order depends on (seed, epoch)."""
        return self._loader("train", self.data.batch_size)

    def val_dataloader(self) -> DataLoader:
        """Return the validation clips, always the same in the same order."""
        return self._loader("val", self.data.val_batch_size)

    def _loader(self, stage: str, batch_size: int) -> DataLoader:
        self.setup()
        dataset = self.datasets[stage]
        options = dict(
            dataset=dataset,
            batch_size=batch_size,
            sampler=_ClipSampler(len(dataset), self.seed, shuffle=stage == "train"),
            num_workers=self.data.num_workers,
            persistent_workers=self.data.num_workers > 0,
            collate_fn=functools.partial(collate_fn, dict_key="all"),
            pin_memory=self._trains_on_cuda(),
            # without one of its own a loader moves the global generator once per epoch
            generator=torch.Generator().manual_seed(self.seed % 2**63),
        )
        if stage == "train":
            return _ResumableLoader(**options, progress=self._progress)
        return DataLoader(**options)

    def _trains_on_cuda(self) -> bool:
        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)

    def _progress(self) -> Optional[tuple[int, int]]:
        """Return how many batches of its epoch Lightning trained on, and how many it has."""
        if self.trainer is None:
            return None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return progress.current.processed, self.trainer.num_training_batches

    def clip_name(self, stage: str, dataset_video_id: int) -> str:
        """Return a video's name.

        Args:
            stage: ``train`` or ``val``.
            dataset_video_id: ``metadata.unique_objects_identifier[..., 0]``.
        """
        return self.datasets[stage].clip_name(int(dataset_video_id))

    def object_names(self, stage: str, dataset_video_id: int) -> Optional[dict[int, str]]:
        """Return {object id: name} of a video, None where the data set has no names.

        Args:
            stage: ``train`` or ``val``.
            dataset_video_id: ``metadata.unique_objects_identifier[..., 0]``.
        """
        return self.datasets[stage].object_names(int(dataset_video_id))


def _split(data: DataConfig) -> tuple[Reader, Reader, list[int], list[int]]:
    """Return the readers and video indices of training and validation."""
    if data.source == "coco_video":
        setting = f"data.train_annotations={data.train_annotations}"
        reader = CocoVideoReader(data.train_annotations, setting, data)
        if data.val_annotations is not None:
            setting = f"data.val_annotations={data.val_annotations}"
            val_reader = CocoVideoReader(data.val_annotations, setting, data, reader.categories)
            return (
                reader,
                val_reader,
                list(range(len(reader.names))),
                list(range(len(val_reader.names))),
            )
    elif data.source == "sav":
        reader = SavReader(data)
    else:
        reader = VosFolderReader(data, per_object=data.source == "png_folders")

    lists = {"train_list": data.train_list, "val_list": data.val_list}
    if data.source == "vos_folder" and lists == {"train_list": None, "val_list": None}:
        davis = {f"{name}_list": f"ImageSets/2017/{name}.txt" for name in ("train", "val")}
        if all((Path(data.root) / path).is_file() for path in davis.values()):
            lists = davis
    train, val = (
        None if path is None else _read_list(path, f"data.{name}={path}", reader, data)
        for name, path in lists.items()
    )
    if train is not None and val is not None:
        shared = [reader.names[i] for i in train if i in set(val)]
        if shared:
            rank_zero_warn(
                f"{len(shared)} videos are listed for training and for validation alike"
                f" ({name_some(shared)}): val/* is no measure of unseen videos"
            )
        return reader, reader, train, val
    if val is not None:
        train = [i for i in range(len(reader.names)) if i not in set(val)]
        if not train:
            raise DataError(
                f"data.val_list={data.val_list} lists every video, expected some left for training"
            )
        return reader, reader, train, val
    videos = list(range(len(reader.names))) if train is None else train
    if len(videos) == 1:
        rank_zero_warn(
            f"the data set has one video, {reader.names[videos[0]]!r}: it is used for training and"
            " for validation alike, so that val/* says nothing about other videos"
        )
        return reader, reader, videos, videos
    videos = sorted(videos, key=lambda i: reader.names[i])
    num_val = min(max(1, round(data.val_fraction * len(videos))), len(videos) - 1)
    return reader, reader, videos[:-num_val], videos[-num_val:]


def _read_list(path: str, setting: str, reader: Reader, data: DataConfig) -> list[int]:
    """Return the indices of the videos that a list file names."""
    found = path
    if not os.path.isfile(found) and data.root is not None:
        found = os.path.join(data.root, path)
    try:
        lines = Path(found).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{setting} does not exist, expected a text file of video names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{setting} cannot be read ({error}), expected a text file of video names"
        ) from error
    index = {name: i for i, name in enumerate(reader.names)}
    names = dict.fromkeys(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{setting} is empty, expected one video name per line")
    videos, missing = [], []
    for name in names:
        # as in official lists an extension may follow, but a name may have a dot of its own
        stem = name if name in index else os.path.splitext(name)[0]
        if stem in index:
            videos.append(index[stem])
        else:
            missing.append(name)
    if missing:
        raise DataError(
            f"{setting} lists {len(missing)} videos that the data set does not have"
            f" ({name_some(missing)}), expected one video name per line"
        )
    return list(dict.fromkeys(videos))
