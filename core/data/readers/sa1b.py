"""Reader of SA-1B: a JSON of masks beside each image."""

import functools
from pathlib import Path
from typing import Any, Optional

import numpy as np
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from .files import (
    FRAME_SUFFIXES,
    DataError,
    NoAnnotatedFrameError,
    check_folder,
    data_root,
    exists,
    find_files,
    read_json,
)
from .frames import AnnotatedFrame, PictureFiles
from .kinds import hint_at_kind
from .segmentations import decode_rle, rle_size


class Sa1bReader(PictureFiles):
    """SA-1B: ``<name>.json`` and ``<name>.jpg``; an image is a video of one frame.

    Its objects are its annotations, counted from 1. The image is the one whose name is that of the
    JSON, whatever the JSON calls it.

    Args:
        data: `data.root`, `data.image_folder`, `data.annotation_folder`, `data.max_image_pixels`.

    Raises:
        DataError: A folder is missing, there are no JSON files, or the first is not SA-1B's.
    """

    def __init__(self, data: DataConfig) -> None:
        """List the images."""
        root = data_root(data)
        self.image_folder = root / data.image_folder
        self.json_folder = root / data.annotation_folder
        for name, folder in (
            ("image_folder", self.image_folder),
            ("annotation_folder", self.json_folder),
        ):
            check_folder(folder, f"data.root={data.root}, data.{name}={getattr(data, name)}")
        self.max_pixels = data.max_image_pixels
        self.num_categories = self.category_names = None
        # SA-1B ships its images in folders sa_000000, sa_000001, ...
        found = find_files(self.json_folder, ".json")
        self.names = sorted(name.removesuffix(".json") for name in found)
        if not self.names:
            raise DataError(
                f"data.root={data.root} has no images: expected <name>.json beside <name>.jpg in"
                f" {self.json_folder}"
            )
        self._annotations(0)

    @functools.lru_cache(maxsize=16)  # noqa: B019 (a reader lives as long as the run)
    def _annotations(self, i: int) -> list[Any]:
        """Return the RLEs of an image's masks."""
        path = str(self.json_folder / f"{self.names[i]}.json")
        content = read_json(path, path)
        if isinstance(content, dict) and isinstance(content.get("image"), dict):
            items = content.get("annotations")
            if isinstance(items, list) and all(isinstance(item, dict) for item in items):
                return [item.get("segmentation") for item in items]
        raise DataError(
            f"{path} is not an SA-1B annotation file, expected a mapping `image` and a list"
            f" `annotations`{hint_at_kind(content, 'sa1b')}"
        )

    def video(self, i: int) -> VOSVideo:
        """Return the one frame of image `i`."""
        path = next((path for path in self._image_paths(i) if exists(path)), None)
        if path is None:
            raise NoAnnotatedFrameError(
                f"{self.names[i]}.json has no image, expected {self._image_paths(i)[0]}"
            )
        rles = self._annotations(i)
        size = rle_size(rles[0]) if rles else None
        return VOSVideo(self.names[i], i, [AnnotatedFrame(0, str(path), masks_size=size)])

    def _image_paths(self, i: int) -> list[Path]:
        suffixes = (*FRAME_SUFFIXES, *map(str.upper, FRAME_SUFFIXES))
        return [self.image_folder / f"{self.names[i]}{suffix}" for suffix in suffixes]

    def depends_on(self, i: int) -> list[str]:
        """Return the JSON file and the image of image `i`."""
        paths = self._image_paths(i)
        number = next((k for k, path in enumerate(paths) if exists(path)), len(paths))
        return [f"{self.json_folder / self.names[i]}.json", *map(str, paths[: number + 1])]

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return the one frame of image `i`."""
        return self.video(i).frames

    def masks(self, i: int, frame: AnnotatedFrame) -> dict[int, np.ndarray]:
        """Return {object id: bool mask [H, W]} of image `i`."""
        size, where = self.size(frame), f"a mask in {self.json_folder / self.names[i]}.json"
        return {k + 1: decode_rle(rle, size, where) for k, rle in enumerate(self._annotations(i))}

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return None: SA-1B's objects have no names."""
        return None

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return (0, 0): an image without a JSON file is not in the data set."""
        return 0, 0
