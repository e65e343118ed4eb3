"""Prompts as people keep them: a PNG of object ids, a folder of PNGs, or JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..checks import UserError, nearest
from ..data.readers.files import MASK_SUFFIXES, check_is_file, list_files, read_json
from ..data.readers.label_maps import (
    VOID,
    LabelMap,
    has_void,
    is_white,
    read_mask,
    read_palette_masks,
)
from ..tracking.frames import Chosen
from ..tracking.prompts import Prompt

_KEYS = ("frame", "object", "box", "points", "labels", "mask")


@dataclass(frozen=True)
class _Video:
    """What prompts have to fit: the frames that are tracked, and how the source counts them."""

    frames: Chosen
    setting: str

    def position(self, number: int, where: str) -> int:
        """Return where a frame of the source is among the tracked ones."""
        indices = self.frames.indices
        if number not in indices:
            raise UserError(
                f"{where}: frame {self._called(number)} is not tracked, expected one of the"
                f" source's frames {self._called(indices[0])} to {self._called(indices[-1])}"
                + (f" in steps of {indices[1] - indices[0]}" if _step(indices) != 1 else "")
            )
        return indices.index(number)

    def _called(self, number: int) -> str:
        """Return the number of a frame, with its name where that is not the number again."""
        names = self.frames.frames.names
        name = names[number] if number < len(names) else str(number)
        is_number = name.isdecimal() and int(name) == number
        return str(number) if is_number else f"{number} ({name})"


def _step(indices: Sequence[int]) -> int:
    return indices[1] - indices[0] if len(indices) > 1 else 1


def read_prompts(path: str, frames: Chosen) -> list[Prompt]:
    """Read prompts; `core.tracking.prompts.check_prompts` says whether they fit the video.

    Args:
        path: A PNG (of the first frame), a folder of PNGs (named as the images of the source, or by
            the number of the frame) or a JSON ``[{frame, object, box | points + labels | mask}]``.
        frames: The frames that are tracked; prompts count those of the whole source, from 0.

    Raises:
        UserError: The file is missing, or is not what it should be.
    """
    video = _Video(frames, f"prompts={path}")
    file = Path(path)
    if file.is_dir():
        return _of_folder(file, video)
    if not file.is_file():
        raise UserError(f"{video.setting} does not exist, expected a PNG, a folder or a JSON")
    if file.suffix.lower() == ".png":
        return _of_png(file)
    if file.suffix.lower() == ".json":
        return _of_json(file, video)
    raise UserError(f"{video.setting} is neither a .png, a .json nor a folder of PNGs")


def _of_folder(folder: Path, video: _Video) -> list[Prompt]:
    numbers = {name: number for number, name in enumerate(video.frames.frames.names)}
    places = []
    for path in list_files(folder, MASK_SUFFIXES):
        number = numbers.get(path.stem)
        if number is None and path.stem.isdecimal():
            number = int(path.stem)
        if number is None:
            raise UserError(f"{path} has neither the name of an image nor the number of a frame")
        places.append((video.position(number, str(path)), path))
    prompts = _of_pngs(places)
    if not prompts:
        raise UserError(f"{video.setting} has no PNG with an object in it")
    return prompts


def _of_png(path: Path) -> list[Prompt]:
    prompts = _of_pngs([(0, path)])
    if not prompts:
        raise UserError(f"{path} is empty: expected a PNG whose values are object ids")
    return prompts


def _of_pngs(places: Sequence[tuple[int, Path]]) -> list[Prompt]:
    """Return a prompt per frame and id, (position, PNG) given; white alone is one object."""
    masks = [(position, _read_masks(path)) for position, path in places]
    every = np.array(sorted({key for _, found in masks for key in found}))
    ids = {key: key for key in every.tolist()}
    if is_white(every):
        ids = dict.fromkeys(ids, 1)
    elif has_void(every):
        del ids[VOID]
    return [
        Prompt(position, ids[key], mask=found[key])
        for position, found in masks
        for key in sorted(found)
        if key in ids
    ]


def _read_masks(path: Path) -> LabelMap:
    check_is_file(path, str(path), "a PNG")
    return read_mask(read_palette_masks, path)


def _of_json(file: Path, video: _Video) -> list[Prompt]:
    content = read_json(str(file), video.setting)
    if not isinstance(content, list) or not content:
        raise UserError(f"{video.setting} must hold a list of prompts, such as {EXAMPLE}")
    return [_of_entry(entry, k, file, video) for k, entry in enumerate(content)]


EXAMPLE = '[{"frame": 0, "object": 1, "box": [x0, y0, x1, y1]}]'


def _of_entry(entry: Any, k: int, file: Path, video: _Video) -> Prompt:
    where = f"{video.setting}, entry {k}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {entry!r}, expected a mapping such as {EXAMPLE}")
    for key in entry:
        if key not in _KEYS:
            near = nearest(str(key), _KEYS)
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"{where} has {key!r}, expected {', '.join(_KEYS)}{hint}")
    number, object_id = (_whole(entry, key, where) for key in ("frame", "object"))
    return Prompt(
        video.position(number, where),
        object_id,
        mask=_mask(entry.get("mask"), file, where),
        box=_box(entry.get("box"), where),
        points=_numbers(entry.get("points"), "points", "[[x, y], ...]", 2, where),
        labels=_numbers(entry.get("labels"), "labels", "a list of 1 and 0", 1, where),
    )


def _whole(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or value < 0:
        raise UserError(f"{where}: {key} is {value!r}, expected a whole number, at least 0")
    return value


def _numbers(value: Any, key: str, form: str, rank: int, where: str) -> Optional[np.ndarray]:
    if value is None:
        return None
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(())
    fits = isinstance(value, list) and array.ndim == rank and np.isfinite(array).all()
    if not fits or (rank == 2 and array.shape[1] != 2):
        raise UserError(f"{where}: {key} is {value!r}, expected {form}")
    return array


def _box(value: Any, where: str) -> Optional[tuple[float, float, float, float]]:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or not all(type(part) in (int, float) for part in numbers):
        raise UserError(f"{where}: box is {value!r}, expected [x0, y0, x1, y1]")
    x0, y0, x1, y1 = map(float, numbers)
    return x0, y0, x1, y1


def _mask(value: Any, file: Path, where: str) -> Optional[np.ndarray]:
    """Read a mask: the path of a PNG, beside the JSON unless it is absolute, or COCO's RLE."""
    if value is None:
        return None
    if isinstance(value, str):
        return _read_masks(file.parent / value).numbers > 0
    from pycocotools import mask as mask_utils

    try:
        rle = dict(value)
        if isinstance(rle["counts"], list):
            rle = mask_utils.frPyObjects(rle, *rle["size"])
        return mask_utils.decode(rle).astype(bool)
    except Exception as error:
        raise UserError(
            f"{where}: mask is neither the path of a PNG nor an RLE with `size` and `counts`"
        ) from error
