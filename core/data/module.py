"""Annotated videos as official ``BatchedVideoDatapoint`` batches.

A training item is a pure function of (seed, epoch, index), whatever the number of workers and the
state of the global generators: the sampler hands out (epoch, index) pairs, and every item draws
from generators of its own.
"""

import functools
from typing import Any, Optional, Union

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader
from training.utils.data_utils import BatchedVideoDatapoint, collate_fn

from ..config import IMAGE_SOURCES, DataConfig
from ..official import original_sizes_of
from .clips import ClipDataset
from .datapoint import normalise
from .finding import find_clips
from .loader import ClipOrder, ClipSampler, ResumableLoader
from .readers.files import DataError
from .readers.reader import has_category_layout
from .readers.recognise import resolve_source
from .split import Videos, split_videos
from .synthetic import SyntheticDataset


class VideoDataModule(LightningDataModule):
    """Training and validation clips of a data set as official batches.

    Batches are ``BatchedVideoDatapoint``: `img_batch` uint8 [T, B, 3, S, S] from the loaders and
    float32, ImageNet-normalised, in the steps of a module that a Trainer runs (`normalise`);
    `masks` bool [T, O, S, S], video-major; `metadata.unique_objects_identifier` [T, O, 3] = (index
    of the clip's video in its data set, in validation of the clip itself; object id or category
    slot; original frame number).

    Ranks are told apart by ``torch.distributed`` alone: give the Trainer
    ``use_distributed_sampler=False``. Under DDP validation is padded by repeating clips, so that
    metrics must count each video index once.

    Args:
        data: Where the clips come from and how they are cut.
        image_size: S, ``model.image_size``.
        seed: Seeds order, clips, synthetic clips and augmentation.

    Raises:
        DataError: ``data=auto`` finds no data set.

    Attributes:
        category_layout: Whether every video has one mask slot per category.
        category_names: The categories in slot order; None for object layouts. Known after `setup`.
        num_categories: Slots per video; None for object layouts. Known after `setup`.
    """

    def __init__(self, data: DataConfig, image_size: int, seed: int) -> None:
        """See the class."""
        super().__init__()
        data = resolve_source(data)
        self.data, self.image_size, self.seed = data, image_size, seed
        self.category_layout = has_category_layout(data)
        self.category_names: Optional[list[str]] = None
        self.original_sizes: Optional[list[Optional[tuple[int, int]]]] = None
        self.num_categories: Optional[int] = None
        self.datasets: dict[str, Union[SyntheticDataset, ClipDataset]] = {}

    def setup(self, stage: Optional[str] = None) -> None:
        """Read the data set's structure; later calls do nothing.

        Raises:
            DataError: The data set cannot be used; the message names the setting or file. Single
                images cannot be trained on, which is what `stage` ``fit`` asks for.
        """
        if stage == "fit" and self.data.source in IMAGE_SOURCES:
            raise DataError(
                f"data={self.data.source} gives clips of one frame, which can be looked through"
                " with `python -m core.data` and scored with `python -m core.evaluate`; training"
                " needs videos: clips of at least 2 frames"
            )
        if self.datasets:
            return
        if self.data.source == "synthetic":
            self.datasets = {
                name: SyntheticDataset(self.data, self.image_size, self.seed, name == "train")
                for name in ("train", "val")
            }
            return
        split = split_videos(self.data)
        self.category_names = split.train.reader.category_names
        self.num_categories = split.train.reader.num_categories
        parts = {"train": split.train, "val": split.val}
        self.datasets = {
            name: self._cut(part, training=name == "train") for name, part in parts.items()
        }
        split.index.save()

    def _cut(self, part: Videos, training: bool) -> ClipDataset:
        sources = find_clips(part.known, part.indices, self.data, training)
        return ClipDataset(
            part.reader, sources, self.data, self.image_size, self.seed, training=training
        )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled clips; the order depends on (seed, epoch)."""
        options = self._loader_options("train")
        order = ClipOrder(len(options["dataset"]), self.seed, shuffle=True)
        return ResumableLoader(
            order=order, batch_size=self.data.batch_size, progress=self._progress, **options
        )

    def val_dataloader(self) -> DataLoader:
        """Return the validation clips, always the same in the same order."""
        options, batch_size = self._loader_options("val"), self.data.val_batch_size
        order = ClipOrder(len(options["dataset"]), self.seed, shuffle=False)
        return DataLoader(batch_size=batch_size, sampler=ClipSampler(order, batch_size), **options)

    def on_before_batch_transfer(
        self, batch: BatchedVideoDatapoint, dataloader_idx: int
    ) -> BatchedVideoDatapoint:
        """Keep the sizes of the original videos, which on a device would have to be waited for."""
        self.original_sizes = original_sizes_of(batch)
        return batch

    def on_after_batch_transfer(
        self, batch: BatchedVideoDatapoint, dataloader_idx: int
    ) -> BatchedVideoDatapoint:
        """Normalise the frames on the device, which bytes reach in a quarter of the time."""
        self.normalise(batch)
        return batch

    def normalise(self, batch: BatchedVideoDatapoint) -> None:
        """Make the frames of a batch what SAM 2 takes, for those who iterate a loader themselves.

        Args:
            batch: One of this module's loaders. Its `img_batch` becomes float32, normalised with
                the statistics of ImageNet, if it holds bytes; floats are left alone.
        """
        if batch.img_batch.dtype == torch.uint8:
            batch.img_batch = normalise(batch.img_batch)

    def _loader_options(self, stage: str) -> dict[str, Any]:
        self.setup()
        return {
            "dataset": self.datasets[stage],
            "num_workers": self.data.num_workers,
            "persistent_workers": bool(self.data.num_workers),
            "collate_fn": functools.partial(collate_fn, dict_key="all"),
            "pin_memory": self._trains_on_cuda(),
            # without one of its own a loader moves the global generator once per epoch
            "generator": torch.Generator().manual_seed(self.seed % 2**63),
        }

    def _trains_on_cuda(self) -> bool:
        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)

    def _progress(self) -> Optional[tuple[int, float]]:
        """Return how many batches of its epoch Lightning trained on, and how many it has."""
        if self.trainer is None:
            return None
        current = self.trainer.fit_loop.epoch_loop.batch_progress.current
        # Lightning declares the base class of what it puts there, which does not count `processed`
        trained = current.processed  # type: ignore[attr-defined]
        return trained, self.trainer.num_training_batches

    def clip_name(self, stage: str, dataset_video_id: int) -> str:
        """Return a video's name.

        Args:
            stage: ``train`` or ``val``; of other data the names are not known.
            dataset_video_id: ``metadata.unique_objects_identifier[..., 0]``.
        """
        dataset = self.datasets.get(stage)
        video_id = int(dataset_video_id)
        return f"video {video_id}" if dataset is None else dataset.clip_name(video_id)

    def object_names(self, stage: str, dataset_video_id: int) -> Optional[dict[int, str]]:
        """Return {object id: name} of a video, None where the data set has no names.

        Args:
            stage: ``train`` or ``val``; of other data the names are not known.
            dataset_video_id: ``metadata.unique_objects_identifier[..., 0]``.
        """
        dataset = self.datasets.get(stage)
        return None if dataset is None else dataset.object_names(int(dataset_video_id))
