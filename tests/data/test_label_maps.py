"""Which masks are warned of: those whose values are not all ids."""

import numpy as np
import pytest
from PIL import Image

from core.data.readers.label_maps import read_labels, read_palette_masks, remarks_on_labels


def blocks(*ids) -> np.ndarray:
    """One square of 12 x 12 per id, side by side, 4 pixels apart."""
    labels = np.zeros((20, 16 * len(ids) + 4), np.uint8)
    for k, value in enumerate(ids):
        labels[4:16, 4 + 16 * k : 16 + 16 * k] = value
    return labels


def resized(labels, factor, how) -> np.ndarray:
    height, width = labels.shape
    size = round(width * factor), round(height * factor)
    return np.asarray(Image.fromarray(labels).resize(size, how))


def texts(labels, tmp_path, per_object=False) -> list[str]:
    return [remark.text for remark in remarks_on_labels(labels, tmp_path / "m.png", per_object)]


@pytest.mark.parametrize("how", [Image.BILINEAR, Image.BICUBIC, Image.LANCZOS])
@pytest.mark.parametrize("factor", [0.4, 0.75, 1.5, 3])
@pytest.mark.parametrize("ids", [(255,), (200,), (100, 200)], ids=str)
def test_interpolated_masks_are_warned_of(tmp_path, ids, factor, how):
    labels = resized(blocks(*ids), factor, how)
    assert "interpolation" in " ".join(texts(labels, tmp_path))


@pytest.mark.parametrize("factor", [0.4, 0.75, 1.5, 3])
@pytest.mark.parametrize("ids", [(255,), (1, 2, 3), (100, 101, 102), (250, 251), range(1, 12)])
def test_masks_resized_with_nearest_neighbour_are_not(tmp_path, ids, factor):
    assert texts(resized(blocks(*ids), factor, Image.NEAREST), tmp_path) == []


def colored(color, mode="RGB"):
    """What makes a coloured image of a share of 255 per pixel: black mixed with a colour."""

    def make(shares) -> Image.Image:
        pixels = np.rint(shares[..., None] / 255 * np.array(color))
        return Image.fromarray(pixels.astype(np.uint8), "RGB").convert(mode)

    return make


def deep(shares) -> Image.Image:
    return Image.fromarray(shares.astype(np.uint16) * 200)


KINDS = {
    "white": colored((255, 255, 255)),
    "maroon, 1 of the palette": colored((128, 0, 0)),
    "orange": colored((255, 120, 9), "RGBA"),
    "blue": colored((0, 0, 255)),
    "16 bits": deep,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("how", [Image.BILINEAR, Image.BICUBIC, Image.NEAREST])
def test_interpolation_is_seen_in_colours_and_in_16_bits(tmp_path, make, how):
    make(resized(blocks(255, 255), 1.5, how)).save(tmp_path / "m.png")
    found = " ".join(texts(read_labels(tmp_path / "m.png"), tmp_path))
    assert ("interpolation" in found) == (how != Image.NEAREST)


@pytest.mark.parametrize("how", [Image.BILINEAR, Image.NEAREST])
def test_interpolation_is_seen_between_two_colours(tmp_path, how):
    labels = np.repeat(blocks(255, 255, 255)[..., None], 3, -1) // 2
    labels[:, 18:34] = labels[:, 18:34, :1] * np.uint8([0, 0, 1])
    Image.fromarray(labels).resize((70, 33), how).save(tmp_path / "m.png")
    found = " ".join(texts(read_labels(tmp_path / "m.png"), tmp_path))
    assert ("interpolation" in found) == (how != Image.NEAREST)


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("value", [255, 128])
def test_masks_that_were_jpegs_are_warned_of(tmp_path, quality, value):
    y, x = np.mgrid[:96, :96]
    Image.fromarray(np.uint8(np.hypot(y - 44, x - 51) < 30) * np.uint8(value)).save(
        tmp_path / "m.jpg", quality=quality
    )
    labels = np.asarray(Image.open(tmp_path / "m.jpg"))
    assert "JPEG" in " ".join(texts(labels, tmp_path))


@pytest.mark.parametrize(
    ("ids", "warned"),
    [
        ((1, 255), True),
        ((1, 2, 3, 255), True),
        ((40, 80, 255), True),
        ((255,), False),
        ((1, 254), False),
        ((127, 255), False),
        ((128, 255), False),
        ((85, 170, 255), False),
        ((170, 255), False),
    ],
    ids=str,
)
def test_255_is_warned_of_beside_ids_but_not_among_even_greys(tmp_path, ids, warned):
    found = texts(blocks(*ids), tmp_path)
    assert ["data.ignore_id=255" in text for text in found] == [True] * warned


@pytest.mark.parametrize(
    ("colors", "ignore"),
    [
        ([(128, 0, 0), (255, 255, 255)], 256 + 0xFFFFFF),
        ([(1, 1, 1), (255, 255, 255)], 256 + 0xFFFFFF),
        ([(128, 0, 0), (224, 224, 192)], 255),
        ([(255, 255, 255)], None),
        ([(127, 127, 127), (255, 255, 255)], None),
        ([(128, 0, 0), (0, 128, 0), (9, 9, 9)], None),
    ],
)
def test_white_and_the_border_of_pascal_are_warned_of_beside_colours(tmp_path, colors, ignore):
    indices = blocks(*range(1, len(colors) + 1))
    Image.fromarray(np.uint8([(0, 0, 0), *colors])[indices]).save(tmp_path / "m.png")
    found = texts(read_labels(tmp_path / "m.png"), tmp_path)
    assert [text.rpartition("=")[2] for text in found] == ([] if ignore is None else [str(ignore)])
    assert not texts(read_labels(tmp_path / "m.png", ignore), tmp_path)


@pytest.mark.parametrize(("ids", "warned"), [((1, 255), True), ((1, 255, 300), False)])
def test_255_is_warned_of_in_16_bits_unless_ids_go_on(tmp_path, ids, warned):
    indices = blocks(*range(1, len(ids) + 1))
    Image.fromarray(np.uint16([0, *ids])[indices]).save(tmp_path / "m.png")
    found = texts(read_labels(tmp_path / "m.png"), tmp_path)
    assert ["data.ignore_id=255" in text for text in found] == [True] * warned


def test_the_warning_says_what_becomes_of_the_values(tmp_path):
    assert "counts as an object;" in texts(blocks(1, 255), tmp_path)[0]
    assert "counts as part of the object;" in texts(blocks(1, 255), tmp_path, per_object=True)[0]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_an_ignored_value_is_background(tmp_path, mode):
    image = Image.fromarray(blocks(1, 7, 255))
    if mode == "P":
        image.putpalette([v for v in range(256) for _ in "rgb"])
    image.save(tmp_path / "m.png")
    assert np.unique(read_labels(tmp_path / "m.png")).tolist() == [0, 1, 7, 255]
    assert np.unique(read_labels(tmp_path / "m.png", ignore_id=7)).tolist() == [0, 1, 255]
    assert np.array_equal(read_labels(tmp_path / "m.png", 255), blocks(1, 7, 0))


def read_colors(tmp_path, colors, mode="RGB") -> list[int]:
    """The ids of a mask of one row of pixels."""
    Image.fromarray(np.array([colors], np.uint8), mode=mode).save(tmp_path / "m.png")
    return read_labels(tmp_path / "m.png")[0].tolist()


def test_colours_of_the_palette_of_davis_are_its_ids(tmp_path):
    # as PASCAL VOC lists them: 1 is maroon, 2 green, 3 olive, 15 pale pink, 255 the border
    colors = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (192, 128, 128), (224, 224, 192)]
    assert read_colors(tmp_path, colors) == [0, 1, 2, 3, 15, 255]
    assert read_labels(tmp_path / "m.png", ignore_id=255)[0, -1] == 0


def test_other_colours_are_ids_of_their_own(tmp_path):
    colors = [(255, 0, 0), (1, 1, 1), (0, 0, 1), (0, 0, 0), (255, 255, 255), (128, 0, 1)]
    expected = [256 + n for n in (0xFF0000, 0x010101, 0x000001)]
    assert read_colors(tmp_path, colors) == [*expected, 0, 256 + 0xFFFFFF, 256 + 0x800001]


def test_transparent_pixels_are_background(tmp_path):
    colors = [(128, 0, 0, 255), (128, 0, 0, 0), (0, 0, 0, 255), (9, 0, 0, 1)]
    assert read_colors(tmp_path, colors, "RGBA") == [1, 0, 0, 256 + 0x090000]
    assert read_colors(tmp_path, [(7, 255), (7, 0), (0, 255)], "LA") == [7, 0, 0]


def test_masks_of_16_bits_keep_their_values(tmp_path):
    values = np.array([[0, 1, 255, 256, 10_000, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert read_labels(tmp_path / "m.png").tolist() == values.tolist()
    masks = read_palette_masks(tmp_path / "m.png", ignore_id=10_000)
    assert list(masks) == [1, 255, 256, 65_535]
    assert masks[256].tolist() == [[False, False, False, True, False, False]]


def test_colours_in_between_are_refused(tmp_path):
    y, x = np.mgrid[:64, :64].astype(np.uint8)
    Image.fromarray(np.stack([x, y, x], -1)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"more than 1000 values or colours, expected one per"):
        read_labels(tmp_path / "m.png")
