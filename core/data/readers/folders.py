"""Reader of folders of frames and masks: PNGs of object ids or colours, or PNGs per object."""

import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from ...words import counted
from .files import (
    MASK_SUFFIXES,
    DataError,
    NoAnnotatedFrameError,
    by_number,
    check_folder,
    check_mask_size,
    data_root,
    frame_files,
    is_folder,
    list_files,
    list_folders,
    mask_files,
    name_some,
    open_image,
    read_json,
)
from .frames import AnnotatedFrame, PictureFiles
from .label_maps import (
    LABEL_MODES,
    read_labels,
    read_mask,
    read_palette_masks,
    remarks_on_labels,
)
from .remarks import Remark

# DAVIS keeps its frames and masks one level further down, in one or several of these.
_RESOLUTIONS = ("480p", "1080p", "Full-Resolution")


def _at_one_resolution(images: Path, masks: Path) -> tuple[Path, Path]:
    """Return the folders of frames and of masks, or those of a resolution in them."""
    for name in _RESOLUTIONS:
        if is_folder(images / name) and is_folder(masks / name):
            return images / name, masks / name
    return with_resolution(images), with_resolution(masks)


def with_resolution(folder: Path) -> Path:
    """Return the folder of a resolution in a folder, or itself."""
    return next((folder / name for name in _RESOLUTIONS if is_folder(folder / name)), folder)


def _other_root(root: Path, data: DataConfig) -> Optional[Path]:
    """Return the folder one level above or below `root` that has frames and masks."""
    for path in (root.parent, *list_folders(root)):
        if is_folder(path / data.image_folder) and is_folder(path / data.annotation_folder):
            return path
    return None


@dataclass(frozen=True)
class _Video:
    """What the folders of a video hold.

    Attributes:
        annotated: Its frames with a mask.
        frames: {frame number: picture}.
        masks: {frame number: {object id: mask file}}. A palette PNG, which holds all objects, is
            listed as object 0, which no object is.
    """

    annotated: VOSVideo
    frames: dict[int, Path]
    masks: dict[int, dict[int, Path]]


class VosFolderReader(PictureFiles):
    """DAVIS, MOSE and YouTube-VOS (`per_object` False) or one folder of PNGs per object (True).

    Args:
        data: `data.root`, `data.image_folder`, `data.annotation_folder`, `data.ignore_id`,
            `data.max_image_pixels`.
        per_object: Masks are ``<video>/<object>/<frame>.png`` instead of palette PNGs
            ``<video>/<frame>.png``.

    Raises:
        DataError: A folder is missing, or there are no videos.
    """

    def __init__(self, data: DataConfig, per_object: bool = False) -> None:
        """List the videos."""
        root = data_root(data)
        images, masks = root / data.image_folder, root / data.annotation_folder
        for name, folder, content in (
            ("image_folder", images, "frames"),
            ("annotation_folder", masks, "masks"),
        ):
            expected = f"a folder with one folder of {content} per video in it"
            other = None if is_folder(folder) else _other_root(root, data)
            if other is not None:
                expected += f"; it is there with data.root={other}"
            setting = f"data.root={data.root}, data.{name}={getattr(data, name)}"
            check_folder(folder, setting, expected)
        self.image_folder, self.mask_folder = _at_one_resolution(images, masks)
        self._folders = str(self.image_folder), str(self.mask_folder)
        self.max_pixels = data.max_image_pixels
        self.per_object, self.ignore_id = per_object, data.ignore_id
        self.num_categories = self.category_names = None
        self.names = [path.name for path in list_folders(self.image_folder)]
        if not self.names:
            raise DataError(
                f"data.root={data.root} has no videos: expected folders of frames in"
                f" {self.image_folder}"
            )
        self._meta = _read_meta(root / "meta.json")
        self._warn_of_masks_alone()

    def _warn_of_masks_alone(self) -> None:
        known = set(self.names)
        alone = [path.name for path in list_folders(self.mask_folder) if path.name not in known]
        if alone:
            rank_zero_warn(
                f"{counted(len(alone), 'folder of masks is', 'folders of masks are')} not used"
                f" ({name_some(alone)} in {self.mask_folder}), because {self.image_folder} has no"
                " folder of that name"
            )

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a reader lives as long as the run)
    def _read(self, i: int) -> _Video:
        name = self.names[i]
        frames, masks = self.image_folder / name, self.mask_folder / name
        files = _object_mask_files(masks) if self.per_object else _palette_mask_files(masks)
        if not files:
            raise NoAnnotatedFrameError(self._without_masks(frames, masks))
        images = frame_files(frames)
        if not images:
            raise NoAnnotatedFrameError(f"{frames} has no frames, expected .jpg or .png files")
        annotated = [
            AnnotatedFrame(number, str(path), masks_size=next(iter(files[number].values())))
            for number, path in images.items()
            if number in files
        ]
        if not annotated:
            raise NoAnnotatedFrameError(f"no mask in {masks} has the number of a frame in {frames}")
        return _Video(VOSVideo(name, i, annotated), images, files)

    def _without_masks(self, frames: Path, masks: Path) -> str:
        pattern, other = ("*/*.png", "vos_folder") if self.per_object else ("*.png", "png_folders")
        message = f"the frames in {frames} have no masks: expected {pattern} in {masks}"
        folders = [masks] if self.per_object else list_folders(masks)
        if any(list_files(folder, MASK_SUFFIXES) for folder in folders):
            message += f"; the masks found there need data={other}"
        return message

    def depends_on(self, i: int) -> list[str]:
        """Return the folders of the frames and masks of video `i`."""
        frames, masks = (f"{folder}/{self.names[i]}" for folder in self._folders)
        objects = map(str, list_folders(Path(masks))) if self.per_object else ()
        return [frames, masks, *objects]

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many frames of video `i` have no mask, and how many masks no frame."""
        video = self._read(i)
        frames, masks = video.frames.keys(), video.masks.keys()
        return len(frames - masks), len(masks - frames)

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._read(i).annotated

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return every frame of video `i`, annotated or not."""
        known = {frame.frame_idx: frame for frame in self.video(i).frames}
        size = self.video(i).frames[0].masks_size
        return [
            known.get(number) or AnnotatedFrame(number, str(path), masks_size=size)
            for number, path in self._read(i).frames.items()
        ]

    def remarks(self, i: int, frame: AnnotatedFrame) -> list[Remark]:
        """Return what a person should know of the files of a frame."""
        remarks = super().remarks(i, frame)
        for path in self._mask_files(i, frame).values():
            labels = read_mask(read_labels, path, self.ignore_id)
            remarks += remarks_on_labels(labels, path, self.per_object)
        return remarks

    def masks(self, i: int, frame: AnnotatedFrame) -> Mapping[int, np.ndarray]:
        """Return {object id: bool mask [H, W]} of a frame.

        Object folders count from 0 and objects from 1, as the official loader has it.
        """
        paths = self._mask_files(i, frame)
        if self.per_object:
            return {
                key: read_mask(read_labels, path, self.ignore_id) > 0 for key, path in paths.items()
            }
        return read_mask(read_palette_masks, paths[0], self.ignore_id)

    def _mask_files(self, i: int, frame: AnnotatedFrame) -> dict[int, Path]:
        """Return {object id: mask file} of a frame, whose headers were looked at."""
        paths = self._read(i).masks[frame.frame_idx]
        size = self.size(frame)
        for path in paths.values():
            with open_image(str(path), self.max_pixels) as mask:
                check_mask_size(mask.size, size, f"mask {path}")
                if mask.mode not in LABEL_MODES:
                    raise DataError(
                        f"mask {path} has mode {mask.mode}, expected a palette, grey or coloured"
                        " PNG whose values or colours are object ids"
                    )
        return paths

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {object id: category} from YouTube-VOS's ``meta.json``, None without it."""
        entry = self._meta.get(self.names[i])
        if not isinstance(entry, dict) or not isinstance(entry.get("objects"), dict):
            return None
        return {
            int(key): str(value["category"])
            for key, value in entry["objects"].items()
            if str(key).isdigit() and isinstance(value, dict) and "category" in value
        }


def _object_mask_files(folder: Path) -> dict[int, dict[int, Path]]:
    """Return {frame number: {object id: file}} of one folder of PNGs per object."""
    files: dict[int, dict[int, Path]] = defaultdict(dict)
    for object_number, object_folder in by_number(list_folders(folder)).items():
        for number, path in mask_files(object_folder).items():
            files[number][object_number + 1] = path
    return dict(files)


def _palette_mask_files(folder: Path) -> dict[int, dict[int, Path]]:
    """Return {frame number: {0: file}} of one palette PNG per frame."""
    return {number: {0: path} for number, path in mask_files(folder).items()}


def _read_meta(path: Path) -> dict:
    """Return {video: its entry} of YouTube-VOS's ``meta.json``, empty without it."""
    if not path.is_file():
        return {}
    meta = read_json(str(path), str(path))
    videos = meta.get("videos") if isinstance(meta, dict) else None
    return videos if isinstance(videos, dict) else {}
