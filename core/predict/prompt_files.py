"""Prompts as people keep them: a PNG of object ids, a folder of PNGs, or JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from ..checks import UserError, nearest
from ..data.readers.files import read_json
from ..tracking.frames import Chosen
from ..tracking.prompts import Prompt

_KEYS = ("frame", "object", "box", "points", "labels", "mask")
_VOID = 255


@dataclass(frozen=True)
class _Video:
    """What prompts have to fit: the frames that are tracked, and how the source counts them."""

    frames: Chosen
    setting: str

    def position(self, number: int, where: str) -> int:
        """Return where a frame of the source is among the tracked ones."""
        if number not in self.frames.indices:
            indices = self.frames.indices
            raise UserError(
                f"{where}: frame {number} is not tracked, expected one of the source's frames"
                f" {indices[0]} to {indices[-1]}"
                + (f" in steps of {indices[1] - indices[0]}" if _step(indices) != 1 else "")
            )
        return self.frames.indices.index(number)


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
        return _of_png(file, 0)
    if file.suffix.lower() == ".json":
        return _of_json(file, video)
    raise UserError(f"{video.setting} is neither a .png, a .json nor a folder of PNGs")


def _of_folder(folder: Path, video: _Video) -> list[Prompt]:
    names = {name: position for position, name in enumerate(video.frames.names)}
    prompts = []
    for path in sorted(folder.glob("*.png")):
        if path.name.startswith("."):
            continue
        position = names.get(path.stem)
        if position is None and path.stem.isdecimal():
            position = video.position(int(path.stem), str(path))
        if position is None:
            raise UserError(f"{path} has neither the name of an image nor the number of a frame")
        prompts += _of_png(path, position)
    if not prompts:
        raise UserError(f"{video.setting} has no PNG with an object in it")
    return prompts


def _of_png(path: Path, position: int) -> list[Prompt]:
    """Return a prompt per id; a PNG of black and white has one object."""
    labels = _read_labels(path)
    ids = [int(key) for key in np.unique(labels) if key != 0]
    if ids == [_VOID]:
        return [Prompt(position, 1, mask=labels == _VOID)]
    prompts = [Prompt(position, key, mask=labels == key) for key in ids if key != _VOID]
    if not prompts:
        raise UserError(f"{path} is empty: expected a PNG whose values are object ids")
    return prompts


def _read_labels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I;16", "I"):
                raise UserError(
                    f"{path} has mode {image.mode}, expected a palette or grey PNG whose values are"
                    " object ids"
                )
            return np.asarray(image).astype(np.int64) * (255 if image.mode == "1" else 1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist, expected a PNG") from None
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error


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
        return _read_labels(file.parent / value) > 0
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
