"""Frames in picture files: which way up they stand, and their pixels as 8-bit RGB."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
from PIL import Image
from training.dataset.vos_raw_dataset import VOSFrame

from .files import DataError, open_image
from .remarks import Remark

_ORIENTATION = 0x0112  # EXIF's tag
# How the stored pixels are turned to stand upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BACK = {
    **_TURNS,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
_SWAP_SIDES = (5, 6, 7, 8)
# Lengths in bytes.
_PNG_SIGNATURE, _PNG_CHECKSUM = 8, 4
# 16-bit frames that reach no higher are of cameras with 8 to 13 bits: scaled they are almost black.
_DARK = 2**13


@dataclass
class AnnotatedFrame(VOSFrame):
    """A frame, and what is known of the size at which its masks were drawn.

    Attributes:
        masks_size: Their (width, height), or a mask file that has it; None: not known.
    """

    masks_size: Union[tuple[int, int], Path, None] = None


@dataclass(frozen=True)
class _Header:
    """How a picture file is read.

    Attributes:
        size: (width, height) of the frame that it becomes.
        orientation: EXIF's, 1 where the pixels are stored upright.
        turned: Whether the pixels are turned as it says.
        deep: Whether it has 16 bits per pixel.
        turned_by_pillow: Whether Pillow turns the pixels when it decodes them, as it does a TIFF's.
    """

    size: tuple[int, int]
    orientation: int
    turned: bool
    deep: bool
    turned_by_pillow: bool


class PictureFiles:
    """What readers have in common whose frames are picture files.

    Attributes:
        max_pixels: ``data.max_image_pixels``.
    """

    max_pixels: int

    def size(self, frame: AnnotatedFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header."""
        return frame_size(frame, self.max_pixels)

    def image(self, frame: AnnotatedFrame, at_least: Optional[int] = None) -> Image.Image:
        """Return a frame as RGB."""
        return load_frame(frame, self.max_pixels, at_least)

    def remarks(self, i: int, frame: AnnotatedFrame) -> list[Remark]:
        """Return what a person should know of the file of a frame."""
        return remarks_on_frame(frame, self.max_pixels)


def frame_size(frame: AnnotatedFrame, max_pixels: int) -> tuple[int, int]:
    """Return (width, height) of a frame as `load_frame` does, from its header."""
    with open_image(frame.image_path, max_pixels) as image:
        return _read_header(image, frame, max_pixels).size


def load_frame(
    frame: AnnotatedFrame, max_pixels: int, at_least: Optional[int] = None
) -> Image.Image:
    """Return a frame as 8-bit RGB.

    It stands upright, as its EXIF orientation says, but for frames that have the size of their
    masks as they are stored alone. Grey frames of 16 bits are scaled.

    Args:
        frame: Where it is.
        max_pixels: ``data.max_image_pixels``.
        at_least: A JPEG may be decoded to a half, a quarter or an eighth of its size that has as
            many pixels along both axes, which takes less time; None: to its own size.

    Raises:
        DataError: The file cannot be read or decoded, or has more than `max_pixels` pixels.
    """
    with open_image(frame.image_path, max_pixels) as image:
        header = _read_header(image, frame, max_pixels)
        try:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            rgb = _to_8_bits(image).convert("RGB")
        except Exception as error:  # Pillow raises many kinds at damaged files
            raise DataError(f"{frame.image_path} cannot be decoded: {error}") from error
    if header.turned_by_pillow:
        rgb = rgb.transpose(_TURNS_BACK[header.orientation])
    return rgb.transpose(_TURNS[header.orientation]) if header.turned else rgb


def remarks_on_frame(frame: AnnotatedFrame, max_pixels: int) -> list[Remark]:
    """Return what `load_frame` changes about a frame."""
    with open_image(frame.image_path, max_pixels) as image:
        header = _read_header(image, frame, max_pixels)
        brightest = _brightest(image) if header.deep else None
    texts = []
    if header.turned:
        texts.append(text_of_turned(f"EXIF orientation {header.orientation}"))
    elif header.orientation in _TURNS:
        texts.append(text_of_stored(f"EXIF orientation {header.orientation}"))
    if brightest is not None:
        text = "16-bit grey frames, scaled to 8 bits (65535 becomes 255)"
        if brightest < _DARK:
            text += f", almost black: no value reaches {_DARK}; spread them over 16 bits before"
        texts.append(text)
    return [Remark(frame.image_path, text) for text in texts]


def text_of_turned(tag: str) -> str:
    """Return the remark on a frame that stands upright because a tag of its file says so."""
    return (
        f"stored turned and read upright, as its {tag} says: see on the sheets whether the masks"
        " were drawn on the upright picture too"
    )


def text_of_stored(tag: str) -> str:
    """Return the remark on a frame that is read as stored, whatever the tag of its file says."""
    return f"read as stored, against its {tag}: only so do frames and masks have the same size"


def _read_header(image: Image.Image, frame: AnnotatedFrame, max_pixels: int) -> _Header:
    orientation = _orientation(image, frame.image_path)
    turned = orientation in _TURNS
    by_pillow = turned and image.format == "TIFF"
    stored = size = image.size
    if orientation in _SWAP_SIDES:
        swapped = image.size[::-1]
        stored, size = (swapped, image.size) if by_pillow else (image.size, swapped)
        if _masks_size(frame, max_pixels) == stored != size:
            size, turned = stored, False
    return _Header(size, orientation, turned, image.mode.startswith("I"), by_pillow)


def _orientation(image: Image.Image, path: str) -> int:
    """Return EXIF's orientation, 1 where there is none that can be read."""
    try:
        # of a PNG without EXIF Pillow would decode all pixels to look behind them
        known = {"exif", "Raw profile type exif"} & image.info.keys()
        if image.format == "PNG" and not (known or _png_has_exif(path)):
            return 1
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds at damaged EXIF, which no frame needs
        return 1
    return value if isinstance(value, int) else 1


def _png_has_exif(path: str) -> bool:
    """Return whether a PNG has EXIF before or after its pixels, without decoding these."""
    with Path(path).open("rb") as file:
        file.seek(_PNG_SIGNATURE)
        while len(head := file.read(8)) == 8 and head[4:] != b"eXIf":
            file.seek(int.from_bytes(head[:4], "big") + _PNG_CHECKSUM, os.SEEK_CUR)
    return len(head) == 8


def _masks_size(frame: AnnotatedFrame, max_pixels: int) -> Optional[tuple[int, int]]:
    if isinstance(frame.masks_size, Path):
        with open_image(str(frame.masks_size), max_pixels) as mask:
            return mask.size
    return frame.masks_size


def _brightest(image: Image.Image) -> Optional[int]:
    """Return the highest value, None where the pixels cannot be decoded."""
    try:
        return int(np.asarray(image).max())
    except Exception:  # `load_frame` says so
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale what has more than 8 bits per channel, which Pillow would cut off at 255."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions, expected 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits, expected 8 or 16")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
