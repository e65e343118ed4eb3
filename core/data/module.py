"""Annotated videos as official ``BatchedVideoDatapoint`` batches.

A training item is a pure function of (seed, epoch, index), whatever the number of workers and the
state of the global generators: the sampler hands out (epoch, index) pairs, and every item draws
from generators of its own.
"""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader
from training.utils.data_utils import BatchedVideoDatapoint

from ..config import DataConfig, SourceConfig, clip_length, sections_of, sources_of
from ..official import original_sizes_of
from .clips import ClipDataset
from .datapoint import collate, normalise, seed_of_source
from .finding import find_clips, warn_of_unmatched_masks
from .loader import ClipBatches, ClipOrder, ResumableLoader
from .readers.files import DataError
from .readers.reader import Reader, has_category_layout
from .readers.recognise import naming_source, resolve_source
from .sources import InTurn, MixedDataset, MixedOrder, Part
from .split import Videos, split_videos
from .synthetic import SyntheticDataset

Clips = Union[SyntheticDataset, ClipDataset]

# A process that loads clips may hang, on a disk or as it starts. Then the run ends, and can be
# resumed, instead of waiting for ever.
_LONGEST_WAIT_S = 1800


class VideoDataModule(LightningDataModule):
    """Training and validation clips of a data set as official batches.

    Batches are ``BatchedVideoDatapoint``: `img_batch` uint8 [T, B, 3, S, S] from the loaders and
    float32, ImageNet-normalised, in the steps of a module that a Trainer runs (`normalise`);
    `masks` bool [T, O, S, S], video-major; `metadata.unique_objects_identifier` [T, O, 3] = (index
    of the clip's video in its data set, in validation of the clip itself; object id or category
    slot; original frame number); where a format marks regions that nobody annotated, they are
    `metadata.ignored` bool [T, B, S, S], for `core.official.without_ignored`. With ``data.sources``
    a batch is of one of them, the same one on every rank; the first of these numbers runs over all
    of them then.

    Ranks are told apart by ``torch.distributed`` alone: give the Trainer
    ``use_distributed_sampler=False``. Under DDP validation is padded by repeating clips, so that
    metrics must count each video index once.

    Args:
        data: Where the clips come from and how they are cut.
        image_size: S, ``model.image_size``.
        seed: Seeds order, clips, synthetic clips and augmentation.

    Raises:
        DataError: ``data=auto`` finds no data set, or some sources have a slot per category, and
            some have objects.

    Attributes:
        category_layout: Whether every video has one mask slot per category.
        category_names: The categories in slot order, fewer than the slots where the file has fewer;
            None for object layouts. Known after `setup`.
        num_categories: Slots per video; None for object layouts. Known after `setup`.
    """

    def __init__(self, data: DataConfig, image_size: int, seed: int) -> None:
        """See the class."""
        super().__init__()
        data = resolve_source(data)
        self.data, self.image_size, self.seed = data, image_size, seed
        self.sources = sources_of(data)
        self.category_layout = _category_layout(data)
        self.category_names: Optional[list[str]] = None
        self.original_sizes: Optional[list[Optional[tuple[int, int]]]] = None
        self.num_categories: Optional[int] = None
        self.datasets: dict[str, Union[Clips, MixedDataset]] = {}

    @property
    def trains_on_images_alone(self) -> bool:
        """Whether every training clip has one frame."""
        return self._has_images_alone("train")

    @property
    def validates_on_images_alone(self) -> bool:
        """Whether every clip of validation has one frame."""
        return self._has_images_alone("val")

    def _has_images_alone(self, stage: str) -> bool:
        sources = [source for _, source in self._sources_for(stage)]
        used: Sequence[DataConfig] = sources or [self.data]
        return all(clip_length(source, training=stage == "train") == 1 for source in used)

    def setup(self, stage: Optional[str] = None) -> None:
        """Read the data set's structure; later calls do nothing.

        Raises:
            DataError: The data set cannot be used; the message names the setting or file.
        """
        if self.datasets:
            return
        if not self.sources:
            self.datasets = {**self._read(self.data, self.seed)}
            return
        found = []
        for i, source in enumerate(self.sources):
            with naming_source(i):
                found.append(self._read(source, seed_of_source(self.seed, i)))
        for name in ("train", "val"):
            parts = {str(source.name): found[i][name] for i, source in self._sources_for(name)}
            self.datasets[name] = MixedDataset(parts)

    def _sources_for(self, stage: str) -> list[tuple[int, SourceConfig]]:
        """Return the data sets that train or validate, with their positions."""
        every = enumerate(self.sources)
        return [(i, source) for i, source in every if stage == "val" or source.trains]

    def _read(self, data: DataConfig, seed: int) -> dict[str, Clips]:
        """Return the clips of one data set by stage."""
        if data.source == "synthetic":
            return {
                name: SyntheticDataset(data, self.image_size, seed, name == "train")
                for name in ("train", "val")
            }
        split = split_videos(data)
        self._take_categories(split.train.reader)
        parts = {"train": split.train, "val": split.val}
        found: dict[str, Clips] = {
            name: self._cut(part, data, seed, training=name == "train")
            for name, part in parts.items()
            if data.trains or name == "val"
        }
        warn_of_unmatched_masks(split.train.known, split.val.known)
        split.index.save()
        return found

    def _take_categories(self, reader: Reader) -> None:
        names, count = reader.category_names, reader.num_categories
        if self.category_names not in (None, names):
            raise DataError(
                f"its categories are {', '.join(names or [])}, those of the data sets before it"
                f" {', '.join(self.category_names)}: one run needs the same in the same order"
            )
        if self.num_categories not in (None, count):
            raise DataError(
                f"it has {count} category slots, the data sets before it {self.num_categories}: one"
                " run needs the same number, which num_categories sets"
            )
        self.category_names, self.num_categories = names, count

    def _cut(self, part: Videos, data: DataConfig, seed: int, training: bool) -> ClipDataset:
        sources = find_clips(part.known, part.indices, data, training)
        return ClipDataset(part.reader, sources, data, self.image_size, seed, training=training)

    def amounts(self) -> dict[Optional[str], str]:
        """Say how many clips train and validate, by data set; None: there is one."""
        train, val = self.datasets["train"], self.datasets["val"]
        if isinstance(train, MixedDataset) or isinstance(val, MixedDataset):
            trained, validating = (
                dict(zip(mixed.names, mixed.datasets, strict=True))
                for mixed in (train, val)
                if isinstance(mixed, MixedDataset)
            )
            return {name: _amounts(trained.get(name), clips) for name, clips in validating.items()}
        return {None: _amounts(train, val)}

    def num_train_batches(self, num_ranks: int) -> int:
        """Return how many training batches of an epoch each of some ranks has."""
        return self._order("train").count(num_ranks)

    def num_val_batches(self, num_ranks: int) -> int:
        """Return how many validation batches each of some ranks has."""
        return self._order("val").count(num_ranks)

    def batches_per_epoch(self, num_ranks: int) -> dict[str, int]:
        """Return how many training batches of an epoch are of each of ``data.sources``.

        Args:
            num_ranks: Each of them has so many.
        """
        dataset, order = self.datasets["train"], self._order("train")
        if not (isinstance(dataset, MixedDataset) and isinstance(order, MixedOrder)):
            return {}
        return dict(zip(dataset.names, order.counts(num_ranks), strict=True))

    def _order(self, stage: str) -> Union[ClipOrder, MixedOrder, InTurn]:
        dataset, size = self.datasets[stage], "batch_size" if stage == "train" else "val_batch_size"
        if not isinstance(dataset, MixedDataset):
            batch_size = getattr(self.data, size)
            return ClipOrder(len(dataset), batch_size, self.seed, shuffle=stage == "train")
        sources = [source for _, source in self._sources_for(stage)]
        parts = [
            Part(first, len(clips), getattr(source, size), source.weight)
            for first, clips, source in zip(dataset.firsts, dataset.datasets, sources, strict=True)
        ]
        return MixedOrder(parts, self.seed) if stage == "train" else InTurn(parts)

    def train_dataloader(self) -> DataLoader:
        """Return shuffled clips; the order depends on (seed, epoch)."""
        options, order = self._loader_options("train"), self._order("train")
        assert not isinstance(order, InTurn)  # which is of validation
        return ResumableLoader(order=order, progress=self._progress, **options)

    def val_dataloader(self) -> DataLoader:
        """Return the validation clips, always the same in the same order."""
        options = self._loader_options("val")
        return DataLoader(batch_sampler=ClipBatches(self._order("val")), **options)

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
            "timeout": _LONGEST_WAIT_S if self.data.num_workers else 0,
            "collate_fn": collate,
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

    def source_of(self, stage: str, dataset_video_id: int) -> Optional[str]:
        """Return the name of the one of ``data.sources`` that a clip is of; None: there are none.

        Args:
            stage: ``train`` or ``val``.
            dataset_video_id: ``metadata.unique_objects_identifier[..., 0]``.
        """
        dataset = self.datasets.get(stage)
        if not isinstance(dataset, MixedDataset):
            return None
        return dataset.source_of(int(dataset_video_id))


def _amounts(train: Optional[Clips], val: Clips) -> str:
    return f"{'no training clips' if train is None else train.amount}, {val.amount}"


def _category_layout(data: DataConfig) -> bool:
    """Return whether every video has one mask slot per category, the same in all data sets."""
    layouts = [has_category_layout(section) for _, section in sections_of(data)]
    if len(set(layouts)) > 1:
        slots, objects = layouts.index(True), layouts.index(False)
        raise DataError(
            f"data.sources[{slots}] has one mask slot per category and data.sources[{objects}] has"
            f" objects, and a run takes one of the two: with data.sources[{slots}].objects="
            "instances its tracks are objects"
        )
    return layouts[0]
