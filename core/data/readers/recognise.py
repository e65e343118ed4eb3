"""``data=auto``: what a folder holds, from its names and the first of its files."""

import contextlib
import dataclasses
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ...config import JSON_SOURCES, DataConfig, in_source, sources_of
from .coco import has_masks
from .files import (
    MASK_SUFFIXES,
    DataError,
    data_root,
    exists,
    is_folder,
    list_files,
    list_folders,
    name_some,
    read_json,
)
from .folders import with_resolution
from .kinds import kind_of_json

log = logging.getLogger(__name__)

# so many JSON files of a folder, and folders for the frames that they name, are looked at
_MOST_FILES = 20
_MOST_FOLDERS = 200
_LOOKED_FOR = (
    "JPEGImages beside Annotations (vos_folder, png_folders), *_manual.json (sav), *.json of COCO"
    " or YouTube-VIS here, in annotations or in folders of splits (coco_video, coco_images,"
    " youtube_vis), *.json of SA-1B (sa1b), instances beside images (mots)"
)
# what other tools leave, and what to export instead
_FOREIGN = {
    "data.yaml": "YOLO's labels: export as COCO with masks for data=coco_images",
    "annotations.xml": 'CVAT\'s XML: export as "COCO 1.0" for data=coco_video'
    ' data.objects=instances, or as "MOTS PNG" for data=mots',
    "SegmentationObject": "PASCAL VOC's single images: convert them to COCO for data=coco_images",
    "meta.json": "a Supervisely project: export as COCO for data=coco_images",
}


@dataclass(frozen=True)
class Found:
    """A data set.

    Attributes:
        source: What ``data.source`` reads it.
        settings: Further settings of `DataConfig`.
    """

    source: str
    settings: dict[str, str]

    def __str__(self) -> str:
        """Return the overrides that name it."""
        named = (f"data.{key}={value}" for key, value in self.settings.items())
        return " ".join([f"data={self.source}", *named])


def resolve_source(data: DataConfig, say: Callable[[str], Any] = log.info) -> DataConfig:
    """Return the settings that ``data=auto`` stands for, or `data` itself for another source.

    Args:
        data: `data.root` is looked at, or that of each of `data.sources`. What is found fills in
            settings that have their defaults.
        say: Is told what was found.

    Raises:
        DataError: Nothing was found, or more than one data set; the message lists which.
    """
    if sources_of(data):
        sources = [_resolve_one(source, i, say) for i, source in enumerate(sources_of(data))]
        return dataclasses.replace(data, sources=sources)
    if data.source != "auto":
        return data
    root = data_root(data)
    found = find_source(root)
    if found is None:
        raise DataError(
            f"data=auto finds no data set in data.root={data.root}"
            f"{_foreign(root)}; looked for {_LOOKED_FOR}"
        )
    say(f"data=auto: {data.root} is read as {found}")
    defaults = {item.name: item.default for item in dataclasses.fields(DataConfig)}
    chosen: dict[str, Any] = {
        key: value
        for key, value in found.settings.items()
        if key == "root" or getattr(data, key) == defaults[key]
    }
    return dataclasses.replace(data, source=found.source, **chosen)


def _resolve_one(source: DataConfig, position: int, say: Callable[[str], Any]) -> DataConfig:
    with naming_source(position):
        return resolve_source(source, lambda said: say(in_source(said, position)))


@contextlib.contextmanager
def naming_source(position: int) -> Iterator[None]:
    """Have a DataError name the settings of one of `data.sources`."""
    try:
        yield
    except DataError as error:
        said = in_source(str(error), position)
        place = f"data.sources[{position}]"
        raise DataError(said if place in said else f"{place}: {said}") from error


def hint_at_source(data: DataConfig) -> str:
    """Return which other source reads ``data.root``, to be put behind a message; empty: none."""
    try:
        found = None if data.root is None else find_source(Path(data.root))
    except (DataError, OSError):  # the message that this stands behind says what is wrong
        return ""
    return "" if found is None or found.source == data.source else f"; it looks like {found}"


def find_source(root: Path) -> Optional[Found]:
    """Return what a folder, or the only folder in it that is a data set, holds; None: nothing.

    Raises:
        DataError: Several folders in it are data sets, or its JSON files leave a choice.
    """
    found = _in_folder(root)
    if found is not None:
        return found
    inside = [(path, _in_folder(path)) for path in list_folders(root)[:_MOST_FOLDERS]]
    known = [(path, item) for path, item in inside if item is not None]
    if len(known) > 1:
        names = name_some([path.name for path, _ in known])
        raise DataError(
            f"{root} has {len(known)} data sets ({names}), expected data.root to be one of them"
        )
    return known[0][1] if known else None


def _in_folder(root: Path) -> Optional[Found]:
    for look in (_masks_beside_frames, _sav, _mots, _json_files):
        found = look(root)
        if found is not None:
            return found
    return None


def _masks_beside_frames(root: Path) -> Optional[Found]:
    masks = root / "Annotations"
    if not (is_folder(root / "JPEGImages") and is_folder(masks)):
        return None
    for video in list_folders(with_resolution(masks))[:_MOST_FOLDERS]:
        if list_files(video, MASK_SUFFIXES):
            return _at(root, "vos_folder")
        if any(list_files(folder, MASK_SUFFIXES) for folder in list_folders(video)):
            return _at(root, "png_folders")
    return None


def _at(root: Path, source: str, **settings: str) -> Found:
    return Found(source, {"root": str(root), **settings})


def _sav(root: Path) -> Optional[Found]:
    # SA-V ships its videos in folders sav_000, sav_001, ...
    for pattern in ("*_manual.json", "sav_*/*_manual.json"):
        if next(root.glob(pattern), None) is not None:
            return _at(root, "sav", annotation_folder=".")
    return None


def _mots(root: Path) -> Optional[Found]:
    # CVAT has a folder for each subset of a task
    for place in (root, *list_folders(root)[:_MOST_FOLDERS]):
        masks = place / "instances"
        folders = (masks, *list_folders(masks)[:1])
        if any(list_files(folder, MASK_SUFFIXES) for folder in folders):
            return _at(root, "mots", image_folder="images", annotation_folder="instances")
    return None


@dataclass(frozen=True)
class _Seen:
    """What is kept of a JSON file, which may fill the memory by itself.

    Attributes:
        kind: What reads it, as `kind_of_json` tells.
        has_masks: Whether an annotation has one: captions and files for a server have none.
        names: The first frames of its videos, or its images.
    """

    kind: str
    has_masks: bool
    names: tuple[str, ...]


def _json_files(root: Path) -> Optional[Found]:
    folders = (root, root / "annotations", *list_folders(root)[:_MOST_FILES])
    found: dict[Path, _Seen] = {}
    for folder in dict.fromkeys(folders):
        for path in list_files(folder, (".json",))[:_MOST_FILES]:
            seen = _look_into(path)
            if seen is None:
                continue
            if seen.kind == "sa1b":
                return _at(root, "sa1b", image_folder=".", annotation_folder=".")
            if seen.kind.split()[0] in JSON_SOURCES:
                found[path] = seen
    # where none has masks, the reader says so
    found = {path: seen for path, seen in found.items() if seen.has_masks} or found
    return _of_splits(root, _without_doubles(found)) if found else None


def _look_into(path: Path) -> Optional[_Seen]:
    content = _read(path)
    kind = kind_of_json(content)
    if kind is None:
        return None
    return _Seen(kind, has_masks(content.get("annotations")), tuple(_first_names(content)))


def _read(path: Path) -> Any:
    try:
        return read_json(str(path), str(path))
    except DataError:  # the file of another program perhaps
        return None


def _without_doubles(found: dict[Path, _Seen]) -> dict[Path, _Seen]:
    """Leave out files whose images a file of instances in the same folder has too.

    COCO has person_keypoints_val2017.json beside instances_val2017.json.
    """
    instances = {path: set(seen.names) for path, seen in found.items() if _is_of_instances(path)}

    def is_double(path: Path) -> bool:
        return path not in instances and any(
            other.parent == path.parent and names.issuperset(found[path].names)
            for other, names in instances.items()
        )

    return {path: seen for path, seen in found.items() if not is_double(path)}


def _is_of_instances(path: Path) -> bool:
    return path.name.lower().startswith("instances_")


def _of_splits(root: Path, found: dict[Path, _Seen]) -> Found:
    """Return which files are of training and of validation, by their names or their folders'."""
    train, validation = _splits(root, list(found))
    if len(train) != 1 or len(validation) > 1:
        names = name_some([str(path.relative_to(root)) for path in found])
        raise DataError(
            f"{root} has several annotation files ({names}), expected one of training and one of"
            " validation by their names: set data.train_annotations and data.val_annotations, with"
            f" data={next(iter(found.values())).kind}"
        )
    source, *objects = found[train[0]].kind.split()
    settings = {"train_annotations": str(train[0])}
    if objects:
        settings["objects"] = "instances"
    image_root = _image_root(root, train[0], found[train[0]])
    if image_root is not None:
        settings["image_root"] = str(image_root)
    for val in validation:
        settings["val_annotations"] = str(val)
        val_root = _image_root(root, val, found[val])
        if val_root != image_root:
            settings["val_image_root"] = str(val_root or val.parent)
    return Found(source, settings)


def _splits(root: Path, paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return which files are of training and which of validation."""

    def named(split: str) -> list[Path]:
        # a part of a name, as in instances_val2017.json, but not the end of interval
        part = re.compile(rf"(?<![a-z]){split}")
        return [path for path in paths if part.search(str(path.relative_to(root)).lower())]

    validation = named("val")
    if set(validation) == set(paths):  # a lone file, whatever it is called
        validation = []
    return named("train") or [path for path in paths if path not in validation], validation


def _image_root(root: Path, path: Path, seen: _Seen) -> Optional[Path]:
    """Return the folder that has a file's first frame; None: it lies beside it, or nowhere."""
    name = next(iter(seen.names), "")
    if exists(path.parent / name):
        return None
    folders = list(itertools.islice(_folders_below(root), _MOST_FOLDERS))
    # instances_val2017.json is of val2017, though train2017 may have a file of that name too
    folders.sort(key=lambda folder: folder.name.lower() not in path.stem.lower())
    return next((folder for folder in folders if exists(folder / name)), None)


def _first_names(content: dict) -> Iterator[str]:
    """Yield the names of the first frames of a file's videos, or those of its images."""
    for key in ("videos", "images"):
        items = content.get(key)
        for item in items if isinstance(items, list) else []:
            if not isinstance(item, dict):
                continue
            name = item.get("file_name") or next(iter(item.get("file_names") or []), None)
            if isinstance(name, str) and name:
                yield name.replace("\\", "/")


def _folders_below(root: Path) -> Iterator[Path]:
    """Yield a folder, those in it and those in these."""
    yield root
    folders = list_folders(root)
    yield from folders
    for folder in folders:
        yield from list_folders(folder)


def _foreign(root: Path) -> str:
    """Return what else it is, to be put behind a message; empty: nobody knows."""
    for name, text in _FOREIGN.items():
        if exists(root / name):
            return f", which has {name}, of {text}"
    for path in list_files(root, (".json",))[:1]:
        content = _read(path)
        if isinstance(content, dict) and {"shapes", "imagePath"} <= content.keys():
            return f", which has {path.name}, of labelme: convert it to COCO for data=coco_images"
        if isinstance(content, list) and content and "annotations" in str(content[0])[:10_000]:
            return (
                f", which has {path.name}, a list: of Label Studio export COCO for data=coco_images"
            )
    return ""
