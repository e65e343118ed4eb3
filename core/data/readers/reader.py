"""What a reader of annotated videos offers, and which source has which reader."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Optional, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from .coco_images import read_coco_images
from .coco_video import read_coco_video
from .folders import VosFolderReader
from .frames import AnnotatedFrame
from .mots import MotsReader
from .remarks import Remark
from .sa1b import Sa1bReader
from .sav import SavReader
from .youtube_vis import read_youtube_vis


class Reader(Protocol):
    """Annotated videos of one data set; a video is addressed by its index in `names`.

    Files are not trusted: sizes are compared and limited before anything is decoded, and whatever
    is not usable raises `DataError`.

    Attributes:
        names: The videos' names.
        num_categories: Mask slots per video in the category layout; None: object layout.
        category_names: What the slots hold, in their order; None: object layout.
    """

    names: list[str]

    @property
    def num_categories(self) -> Optional[int]:
        """See the class."""

    @property
    def category_names(self) -> Optional[list[str]]:
        """See the class."""

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i` in order."""

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return every frame of video `i` in order, annotated or not."""

    def size(self, frame: AnnotatedFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header, without decoding it."""

    def image(self, frame: AnnotatedFrame, at_least: Optional[int] = None) -> Image.Image:
        """Return a frame as RGB, smaller where a decoder can; `at_least` along both axes."""

    def remarks(self, i: int, frame: AnnotatedFrame) -> list[Remark]:
        """Return what a person should know of the files of a frame, though they can be read."""

    def masks(self, i: int, frame: AnnotatedFrame) -> Mapping[int, np.ndarray]:
        """Return {object id or slot: bool mask [H, W]}; an object may be missing or empty.

        Masks that cannot overlap are a `LabelMap`.
        """

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {object id or slot: name} of video `i`, None where there are no names."""

    def depends_on(self, i: int) -> list[str]:
        """Return the folders and files that decide which frames video `i` has, missing ones too.

        And of those that have its masks the ones that are no pictures.
        """

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many frames of video `i` lack a mask, and how many masks a frame.

        No frame does in a format that labels some frames only.
        """


@runtime_checkable
class MarksRegions(Protocol):
    """A reader of a format that marks where nobody says what is there."""

    def ignored(self, i: int, frame: AnnotatedFrame) -> np.ndarray:
        """Return these regions of a frame: bool [H, W]."""


@dataclass(frozen=True)
class Source:
    """How a ``data.source`` is read; what it needs of `DataConfig` is checked there.

    Attributes:
        open: Returns the readers of training and of validation: one and the same where the videos
            of one data set are to be split.
        lists: Lists of training and validation videos that such a data set may bring, below
            ``data.root``.
    """

    open: Callable[[DataConfig], tuple[Reader, Reader]]
    lists: Optional[tuple[str, str]] = None


def _open_root(read: Callable[[DataConfig], Reader], data: DataConfig) -> tuple[Reader, Reader]:
    reader = read(data)
    return reader, reader


def _open_coco_video(data: DataConfig) -> tuple[Reader, Reader]:
    train, val = _annotations(data)
    reader = read_coco_video(*train, _for_training(data))
    if val is None:
        return reader, reader
    categories = reader.categories if has_category_layout(data) else None
    return reader, read_coco_video(*val, _for_validation(data), categories)


def _open_json(
    read: Callable[[str, str, DataConfig], Reader], data: DataConfig
) -> tuple[Reader, Reader]:
    train, val = _annotations(data)
    reader = read(*train, _for_training(data))
    return reader, reader if val is None else read(*val, _for_validation(data))


def _for_training(data: DataConfig) -> DataConfig:
    return dataclasses.replace(data, val_image_root=None)


def _for_validation(data: DataConfig) -> DataConfig:
    return dataclasses.replace(data, image_root=data.val_image_root or data.image_root)


def _annotations(data: DataConfig) -> tuple[tuple[str, str], Optional[tuple[str, str]]]:
    """Return the annotation files of training and validation, each with what the user called it."""
    assert data.train_annotations is not None  # `DataConfig` asks for it
    train = data.train_annotations, f"data.train_annotations={data.train_annotations}"
    if data.val_annotations is None:
        return train, None
    return train, (data.val_annotations, f"data.val_annotations={data.val_annotations}")


# every source but `synthetic`, which reads nothing
SOURCES = {
    "vos_folder": Source(
        partial(_open_root, VosFolderReader),
        lists=("ImageSets/2017/train.txt", "ImageSets/2017/val.txt"),
    ),
    "png_folders": Source(partial(_open_root, partial(VosFolderReader, per_object=True))),
    "sav": Source(partial(_open_root, SavReader)),
    "sa1b": Source(partial(_open_root, Sa1bReader)),
    "mots": Source(partial(_open_root, MotsReader)),
    "coco_video": Source(_open_coco_video),
    "youtube_vis": Source(partial(_open_json, read_youtube_vis)),
    "coco_images": Source(partial(_open_json, read_coco_images)),
}


def has_category_layout(data: DataConfig) -> bool:
    """Return whether every video has one mask slot per category."""
    return data.source == "coco_video" and data.objects != "instances"
