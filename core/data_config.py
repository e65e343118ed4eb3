"""The `data` section of the configuration: where clips come from, how they are cut and varied."""

import os
from dataclasses import dataclass, field
from typing import Optional

from .checks import require, require_choice

DATA_SOURCES = ("synthetic", "vos_folder", "png_folders", "sav", "coco_video")


@dataclass
class AugmentationConfig:
    """Augmentation of training clips, the same for every frame of a clip unless said otherwise.

    The defaults flip only. Official MOSE fine-tuning uses degrees 25, shear 20, brightness 0.1,
    contrast 0.03, saturation 0.03 per clip, grayscale 0.05 and, per frame, brightness 0.1,
    contrast 0.05, saturation 0.05 (``jitter_per_frame``).

    Attributes:
        horizontal_flip: Probability of mirroring the clip.
        degrees: Rotation drawn from [-degrees, degrees].
        shear: Shear angle in degrees drawn from [-shear, shear].
        brightness: Factor drawn from [1 - b, 1 + b]; `contrast` and `saturation` alike.
        contrast: See `brightness`.
        saturation: See `brightness`.
        grayscale: Probability of a grey clip.
        jitter_per_frame: Draw the colour factors anew for every frame as well.
    """

    horizontal_flip: float = 0.5
    degrees: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grayscale: float = 0.0
    jitter_per_frame: bool = False

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "grayscale"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.augmentation.{name}", value, "a probability in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value < 1, f"data.augmentation.{name}", value, "in [0, 1)")
        require(0 <= self.degrees <= 180, "data.augmentation.degrees", self.degrees, "in [0, 180]")
        require(0 <= self.shear < 90, "data.augmentation.shear", self.shear, "in [0, 90)")


@dataclass
class SyntheticConfig:
    """Moving shapes on a background, deterministic by seed and clip index.

    Attributes:
        num_train_clips: Clips per epoch; fresh ones every epoch.
        num_val_clips: Validation clips, always the same.
        min_objects: Fewest objects per clip.
        max_objects: Most objects per clip.
        min_radius: Smallest radius as a fraction of the image side.
        max_radius: Largest radius as a fraction of the image side.
        speed: Largest movement per frame as a fraction of the image side.
        texture: Noise amplitude on background and shapes in [0, 1].
        overlap: Let objects cross each other.
        leave_frame: Let objects leave the frame and come back.
    """

    num_train_clips: int = 1000
    num_val_clips: int = 16
    min_objects: int = 2
    max_objects: int = 3
    min_radius: float = 0.125
    max_radius: float = 0.25
    speed: float = 0.025
    texture: float = 0.0
    overlap: bool = False
    leave_frame: bool = False

    def __post_init__(self) -> None:
        for name in ("num_train_clips", "num_val_clips", "min_objects"):
            value = getattr(self, name)
            require(value >= 1, f"data.synthetic.{name}", value, "at least 1")
        require(
            self.max_objects >= self.min_objects,
            "data.synthetic.max_objects",
            self.max_objects,
            f"at least data.synthetic.min_objects ({self.min_objects})",
        )
        require(
            0 < self.min_radius <= self.max_radius <= 0.5,
            "data.synthetic.min_radius, max_radius",
            (self.min_radius, self.max_radius),
            "0 < min_radius <= max_radius <= 0.5",
        )
        require(self.speed >= 0, "data.synthetic.speed", self.speed, "at least 0")
        require(0 <= self.texture <= 1, "data.synthetic.texture", self.texture, "in [0, 1]")


@dataclass
class DataConfig:
    """Where the clips come from and how they are cut.

    Attributes:
        source: ``synthetic``; ``vos_folder`` (DAVIS, MOSE, YouTube-VOS); ``png_folders`` (one
            folder of PNG masks per object); ``sav`` (SA-V); ``coco_video`` (COCO-video JSON,
            category layout).
        root: The data set's folder (every source but ``synthetic`` and ``coco_video``).
        image_folder: Frames, relative to `root`.
        annotation_folder: Masks, relative to `root`.
        train_list: Text file with one training video per line, also relative to `root`; None: the
            videos that `val_list` leaves, DAVIS's own lists, or a split by `val_fraction`.
        val_list: Text file with one validation video per line, also relative to `root`; None:
            DAVIS's own lists, or a split by `val_fraction`.
        train_annotations: COCO-video JSON for training.
        val_annotations: COCO-video JSON for validation; None: split by `val_fraction`.
        image_root: Folder that ``file_name`` is joined to; None trusts the JSON's own paths.
        val_fraction: Share of the videos, sorted by name, kept for validation without lists.
        num_frames: Frames per clip (T).
        val_num_frames: Frames per validation clip; None: `num_frames`. A video that has fewer, from
            its first frame with an object, is used as it is when `val_batch_size` is 1 and skipped
            otherwise, because the clips of a batch are equally long.
        frame_stride: Distance between the clip's frames in the video.
        max_objects: At most so many objects per clip (object layout).
        num_categories: Mask slots per video in the category layout; None: as many as the file has.
        clips_per_video: Clips drawn from each video per training epoch.
        batch_size: Clips per training batch and device (B).
        val_batch_size: Clips per validation batch and device.
        num_workers: DataLoader worker processes of each stage; None: one per core, at most 4.
        max_image_pixels: Frames with more pixels are refused (untrusted files).
        augmentation: Augmentation of training clips.
        synthetic: Options of the ``synthetic`` source.
    """

    source: str = "synthetic"
    root: Optional[str] = None
    image_folder: str = "JPEGImages"
    annotation_folder: str = "Annotations"
    train_list: Optional[str] = None
    val_list: Optional[str] = None
    train_annotations: Optional[str] = None
    val_annotations: Optional[str] = None
    image_root: Optional[str] = None
    val_fraction: float = 0.1
    num_frames: int = 4
    val_num_frames: Optional[int] = None
    frame_stride: int = 1
    max_objects: int = 3
    num_categories: Optional[int] = None
    clips_per_video: int = 1
    batch_size: int = 2
    val_batch_size: int = 2
    num_workers: Optional[int] = 0
    max_image_pixels: int = 100_000_000
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, DATA_SOURCES)
        two = "at least 2: the first frame is prompted, and one is to be left to track"
        require(self.num_frames >= 2, "data.num_frames", self.num_frames, two)
        require(
            self.val_num_frames is None or self.val_num_frames >= 2,
            "data.val_num_frames",
            self.val_num_frames,
            f"null or {two}",
        )
        for name in (
            "frame_stride",
            "max_objects",
            "clips_per_video",
            "batch_size",
            "val_batch_size",
            "max_image_pixels",
        ):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "at least 1")
        if self.num_workers is None:
            self.num_workers = min(4, _num_cores())
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "null or at least 0")
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "in (0, 1)")
        require(
            self.num_categories is None or self.num_categories >= 1,
            "data.num_categories",
            self.num_categories,
            "null or at least 1",
        )
        if self.source == "coco_video":
            require(
                self.train_annotations is not None,
                "data.train_annotations",
                self.train_annotations,
                "the path of a COCO-video JSON for data=coco_video",
            )
        elif self.source != "synthetic":
            require(
                self.root is not None,
                "data.root",
                self.root,
                f"the data set's folder for data={self.source}",
            )


def _num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
