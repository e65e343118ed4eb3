"""The fast reader of masks returns what Pillow does, and leaves to Pillow what is unusual."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.data.readers.files import DataError
from core.data.readers.label_maps import davis_palette, read_labels, read_mask
from core.data.readers.png import read_plain_png

LABELS = np.arange(7 * 11, dtype=np.uint8).reshape(7, 11) % 5


def palette(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette(davis_palette())
    return image


def test_a_palette_is_read_as_its_indices(tmp_path):
    palette(LABELS).save(tmp_path / "m.png", bits=8)
    found = read_plain_png(tmp_path / "m.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, LABELS)
    found[0, 0] = 9  # it may be written to


def test_transparency_of_a_palette_changes_no_index(tmp_path):
    palette(LABELS).save(tmp_path / "m.png", bits=8, transparency=3)
    np.testing.assert_array_equal(read_plain_png(tmp_path / "m.png"), LABELS)


@pytest.mark.parametrize("mode", ["1", "I;16", "RGB", "LA", "filtered", "4 bits"])
def test_other_kinds_are_left_to_pillow(tmp_path, mode):
    if mode == "filtered":
        # in a picture that grows to the right, Pillow stores the differences
        image = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (50, 1)))
    elif mode == "4 bits":
        image = palette(LABELS)
    else:
        image = Image.fromarray(LABELS).convert(mode)
    image.save(tmp_path / "m.png", **({"bits": 4} if mode == "4 bits" else {}))
    assert read_plain_png(tmp_path / "m.png") is None
    assert read_labels(tmp_path / "m.png").shape == image.size[::-1]


def png(raw: bytes, width: int = 11, height: int = 7) -> bytes:
    """Write a PNG by its description: a grey picture of 8 bits whose lines are `raw`."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(raw)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data[:9]), chunk(b"IDAT", data[9:])
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def lines() -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in LABELS)


def test_pixels_in_several_chunks_are_put_together(tmp_path):
    (tmp_path / "m.png").write_bytes(png(lines()))
    np.testing.assert_array_equal(read_plain_png(tmp_path / "m.png"), LABELS)


DAMAGED = {
    "cut short": lambda: png(lines())[:-40],
    "a byte changed": lambda: png(lines()).replace(b"IDAT", b"IDAX", 1),
    "wrong checksum": lambda: png(lines())[:-20] + b"\0" + png(lines())[-19:],
    "too few lines": lambda: png(lines()[:-12]),
    "unpacks to more than it says": lambda: png(lines() + bytes(10**6)),
    "no PNG": lambda: b"GIF89a",
    "nothing": lambda: b"",
    "endless chunk": lambda: png(lines())[:33] + b"\xff\xff\xff\xffIDAT",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_left_to_pillow(tmp_path, damage):
    (tmp_path / "m.png").write_bytes(damage())
    assert read_plain_png(tmp_path / "m.png") is None


def test_a_mask_that_nobody_can_read_is_named(tmp_path):
    (tmp_path / "m.png").write_bytes(DAMAGED["cut short"]())
    with pytest.raises(DataError, match=r"mask .*m\.png cannot be read"):
        read_mask(read_labels, tmp_path / "m.png")
