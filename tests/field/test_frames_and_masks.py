"""Frames and masks that do not belong together are refused or warned of, not learnt in silence."""

import json
import shutil
import struct

import cv2
import numpy as np
import pytest
from field_helpers import (
    HEIGHT,
    ROOT,
    SOURCES,
    WIDTH,
    box_polygon,
    check_set,
    encode,
    label_map,
    picture,
    picture_of,
    read_all,
    save_frame,
    save_grey,
    save_palette,
    write_set,
)
from PIL import Image, TiffImagePlugin

from core.data import DataError

FILES = [source for source in SOURCES if source != "coco_video"]
ONE_OBJECT = {"labels": lambda t: label_map(1, t=t)}
SIZE = f"{WIDTH} x {HEIGHT}"


def frames_of(reader, video=0) -> list:
    return list(reader.video(video).frames)


def file_names(made, **fields) -> list[str]:
    return [frame.image_path.split("/")[-1] for frame in frames_of(made.reader(**fields))]


def reads_or_refuses(made, name: str):
    """Return the first video's first frame and masks, or None when they are refused by name."""
    refusal = ""
    try:
        reader = made.reader()
        frame = frames_of(reader)[0]
        image, masks = reader.image(frame), reader.masks(0, frame)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert name in refusal
        return None
    assert reader.size(frame) == image.size
    return np.asarray(image).astype(int), masks


def save_16_bits(path, t):
    values = 1000 + np.mgrid[:HEIGHT, :WIDTH][1] * 60000 // WIDTH
    Image.fromarray(values.astype(np.uint16)).save(path)


@pytest.mark.parametrize("source", SOURCES)
def test_frames_of_16_bits_are_scaled_or_refused(folder, source):
    made = write_set(folder, source, frame=save_16_bits, frame_name="{:05d}.png")
    read = reads_or_refuses(made, "00000.png")
    if read is not None:
        expected = (1000 + np.arange(WIDTH) * 60000 // WIDTH) / 257
        assert abs(read[0] - expected[None, :, None]).max() <= 2


@pytest.mark.parametrize("source", SOURCES)
def test_the_check_names_a_frame_of_16_bits(folder, source):
    made = write_set(folder, source, frame=save_16_bits, frame_name="{:05d}.png")
    assert check_set(made).says("00000.png", ("16 bit", "16-bit"))


def test_clips_of_16_bits_do_not_come_out_white(folder):
    made = write_set(folder, frame=save_16_bits, frame_name="{:05d}.png")
    if reads_or_refuses(made, "00000.png") is not None:
        clip = made.module().datasets["val"][0]
        red = clip.frames[0].data[0].float()
        assert 0 <= red[:, 0].mean() < 30
        assert 200 < red[:, -1].mean() < 250


def test_a_single_frame_of_16_bits_is_found(folder):
    made = write_set(folder, frame_name="{:05d}.png")
    save_16_bits(folder / "JPEGImages" / "a" / "00003.png", 3)
    assert check_set(made).says("00003.png", ("16 bit", "16-bit"))


def test_colour_frames_of_16_bits_keep_their_colours(folder):
    def save(path, t):
        cv2.imwrite(str(path), picture(t)[..., ::-1].astype(np.uint16) * 257)

    made = write_set(folder, frame=save, frame_name="{:05d}.png")
    read = reads_or_refuses(made, "00000.png")
    if read is not None:
        assert abs(read[0] - picture()).max() <= 1


def deep(how):
    """Return what saves a grey frame of 16 bits, whose columns are of growing brightness."""

    def save(path, t):
        values = 1000 + np.mgrid[:HEIGHT, :WIDTH][1] * 60000 // WIDTH
        how(path, values)

    return save


def big_endian(path, values):
    """Write a TIFF of 16 bits whose high bytes come first, by hand."""
    pixels = values.astype(">u2").tobytes()
    tags = [(256, 4, WIDTH), (257, 4, HEIGHT), (258, 3, 16), (259, 3, 1), (262, 3, 1),
            (273, 4, 8), (277, 3, 1), (278, 4, HEIGHT), (279, 4, len(pixels))]  # fmt: skip
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + struct.pack(">I" if kind == 4 else ">HH", *v)
        for tag, kind, value in tags
        for v in [(value,) if kind == 4 else (value, 0)]
    )
    head = b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels
    path.write_bytes(head + struct.pack(">H", len(tags)) + entries + bytes(4))


DEEP = {
    "TIFF": (".tif", lambda path, v: Image.fromarray(v.astype(np.uint16)).save(path)),
    "TIFF of the other byte order": (".tiff", big_endian),
    "32 bits that use 16": (".tif", lambda path, v: Image.fromarray(v.astype(np.int32)).save(path)),
    "PNG of OpenCV": (".png", lambda path, v: cv2.imwrite(str(path), v.astype(np.uint16))),
}


@pytest.mark.parametrize("source", ["vos_folder", "coco_video"])
@pytest.mark.parametrize(("suffix", "how"), DEEP.values(), ids=DEEP)
def test_every_kind_of_16_bit_frame_is_scaled_alike(folder, source, suffix, how):
    made = write_set(folder, source, frame=deep(how), frame_name="{:05d}" + suffix)
    image, _ = reads_or_refuses(made, "")
    expected = (1000 + np.arange(WIDTH) * 60000 // WIDTH) / 257
    assert abs(image - expected[None, :, None]).max() <= 0.5
    assert read_all(made).says(f"00000{suffix}", "16-bit")


TOO_DEEP = {
    "fractions": lambda path, v: Image.fromarray((v / 65536).astype(np.float32)).save(path),
    "32 bits": lambda path, v: Image.fromarray((v * 40000 // 3).astype(np.int32)).save(path),
    "negative": lambda path, v: Image.fromarray((v - 5000).astype(np.int32)).save(path),
}


@pytest.mark.parametrize("how", TOO_DEEP.values(), ids=TOO_DEEP)
def test_frames_that_cannot_be_scaled_are_refused_by_name(folder, how):
    made = write_set(folder, frame=deep(how), frame_name="{:05d}.tif")
    check_set(made).is_refused("00000.tif", ("16", "fractions"))


@pytest.mark.parametrize(("brightest", "dark"), [(1023, True), (4095, True), (40000, False)])
def test_frames_of_10_or_12_bits_stored_in_16_are_said_to_be_dark(folder, brightest, dark):
    def save(path, t):
        values = np.linspace(0, brightest, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        Image.fromarray(values.astype(np.uint16)).save(path)

    made = write_set(folder, frame=save, frame_name="{:05d}.png")
    assert read_all(made).says("00000.png", "black") == dark


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "RGB"])
def test_frames_of_8_bits_are_read_as_they_are(folder, mode):
    grey = Image.fromarray(picture()[..., 0])

    def save(path, t):
        grey.convert(mode).save(path)

    made = write_set(folder, frame=save, frame_name="{:05d}.png")
    image, _ = reads_or_refuses(made, "00000.png")
    assert abs(image - picture()[..., :1].astype(int)).max() <= 1
    assert not check_set(made).says("00000.png")


TRANSPOSE = Image.Transpose
STORED = {  # how an upright picture is stored under an orientation
    2: TRANSPOSE.FLIP_LEFT_RIGHT,
    3: TRANSPOSE.ROTATE_180,
    4: TRANSPOSE.FLIP_TOP_BOTTOM,
    5: TRANSPOSE.TRANSPOSE,
    6: TRANSPOSE.ROTATE_90,
    7: TRANSPOSE.TRANSVERSE,
    8: TRANSPOSE.ROTATE_270,
}


def save_turned(orientation, raw_masks=False):
    """Return what saves a frame whose first object is white, turned as a phone does it.

    Masks are drawn on the upright picture or, with `raw_masks`, on the stored pixels.
    """

    def save(path, t):
        exif = Image.Exif()
        exif[0x0112] = orientation
        labels = label_map(1, t=t)
        if raw_masks:
            image = Image.fromarray(picture_of(labels, t))
        else:
            image = Image.fromarray(picture_of(labels, t)).transpose(STORED[orientation])
        image.save(path, quality=95, exif=exif)

    return save


def assert_object_is_under_its_mask(made) -> None:
    reader = made.reader()
    for frame in frames_of(reader):
        image = np.asarray(reader.image(frame)).astype(int)
        mask = reader.masks(0, frame)[made.first_key]
        assert reader.size(frame) == image.shape[1::-1]
        assert mask.shape == image.shape[:2]
        assert image[mask].mean() > 230
        assert image[~mask].mean() < 120


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_frames_stand_upright_under_upright_masks(folder, source, orientation):
    made = write_set(folder, source, **ONE_OBJECT, frame=save_turned(orientation))
    assert_object_is_under_its_mask(made)


@pytest.mark.parametrize("orientation", [2, 4, 5, 7, 8])
def test_every_orientation_is_known(folder, orientation):
    made = write_set(folder, **ONE_OBJECT, frame=save_turned(orientation))
    assert_object_is_under_its_mask(made)


def test_turned_pngs_stand_upright_too(folder):
    made = write_set(folder, **ONE_OBJECT, frame=save_turned(6), frame_name="{:05d}.png")
    assert_object_is_under_its_mask(made)


def save_turned_tiff(orientation, raw_masks=False):
    """Return what saves a turned TIFF: its orientation is a tag of the picture itself."""

    def save(path, t):
        save_turned(orientation, raw_masks)(path.with_suffix(".png"), t)
        with Image.open(path.with_suffix(".png")) as image:
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[0x0112] = orientation
            Image.fromarray(np.asarray(image)).save(path, tiffinfo=tags)
        path.with_suffix(".png").unlink()

    return save


KINDS = {".webp": save_turned, ".tif": save_turned_tiff}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_turned_frames_of_other_formats_stand_upright(folder, suffix, orientation):
    made = write_set(
        folder, **ONE_OBJECT, frame=KINDS[suffix](orientation), frame_name="{:05d}" + suffix
    )
    assert_object_is_under_its_mask(made)
    assert read_all(made).says(f"00000{suffix}", "orientation", str(orientation))


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_frames_of_other_formats_stay_raw_where_only_raw_fits(folder, suffix, orientation):
    made = write_set(
        folder, **ONE_OBJECT, frame=KINDS[suffix](orientation, True), frame_name="{:05d}" + suffix
    )
    assert_object_is_under_its_mask(made)
    assert read_all(made).says(f"00000{suffix}", "orientation", "stored")


def test_turned_frames_of_16_bits_stand_upright(folder):
    def save(path, t):
        exif = Image.Exif()
        exif[0x0112] = 6
        values = np.zeros((HEIGHT, WIDTH), np.uint16)
        values[label_map(1, t=t) > 0] = 65535
        Image.fromarray(np.rot90(values).copy()).save(path, exif=exif)

    made = write_set(folder, **ONE_OBJECT, frame=save, frame_name="{:05d}.png")
    assert_object_is_under_its_mask(made)
    told = read_all(made)
    assert told.says("00000.png", "orientation")
    assert told.says("00000.png", "16-bit")


def test_each_frame_has_an_orientation_of_its_own(folder):
    def save(path, t):
        orientation = [1, 3, 6, 8][t]
        save_turned(orientation, raw_masks=orientation == 1)(path, t)

    assert_object_is_under_its_mask(write_set(folder, **ONE_OBJECT, frame=save))


def test_exif_behind_the_pixels_of_a_png_turns_it_too(folder):
    def save(path, t):
        save_turned(6)(path.with_suffix(".png"), t)
        png = path.with_suffix(".png")
        content = png.read_bytes()
        start = content.index(b"eXIf") - 4
        chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
        rest, end = content.replace(chunk, b""), -12
        png.write_bytes(rest[:end] + chunk + rest[end:])

    made = write_set(folder, **ONE_OBJECT, frame=save)
    assert_object_is_under_its_mask(made)
    assert check_set(made).says("00000.png", ("exif", "orientation"))


def test_damaged_exif_is_no_reason_to_stop(folder):
    def save(path, t):
        Image.fromarray(picture_of(label_map(1, t=t), t)).save(
            path, quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
        )

    assert_object_is_under_its_mask(write_set(folder, **ONE_OBJECT, frame=save))


# What a film's header has for each rotation: rows of fixed-point numbers.
MATRIX = {
    90: (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30),
    180: (-1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30),
    270: (0, -1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30),
}
AS_EXIF = {90: 6, 180: 3, 270: 8}


def write_turned_films(made, rotation, raw_masks=False) -> None:
    """Write the films that a phone held in another way would have written."""
    for name in "ab":
        path, pixels = made.root / f"{name}.mp4", []
        for t in range(16):
            upright = picture_of(label_map(1, t=t // 4), t)
            turn = STORED[AS_EXIF[rotation]]
            stored = upright if raw_masks else np.asarray(Image.fromarray(upright).transpose(turn))
            pixels.append(np.ascontiguousarray(stored[..., ::-1]))
        height, width = pixels[0].shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, (width, height))
        for image in pixels:
            writer.write(image)
        writer.release()
        content = bytearray(path.read_bytes())
        place = content.find(b"tkhd") + 4 + 40
        content[place : place + 36] = struct.pack(">9i", *MATRIX[rotation])
        path.write_bytes(content)


@pytest.mark.parametrize("rotation", MATRIX)
def test_turned_films_stand_upright(folder, rotation):
    made = write_set(folder, "sav", **ONE_OBJECT)
    shutil.rmtree(made.frames)
    write_turned_films(made, rotation)
    assert_object_is_under_its_mask(made)
    assert read_all(made).says("a.mp4", f"rotation of {rotation} degrees", "upright")


@pytest.mark.parametrize("rotation", [90, 270])
def test_turned_films_stay_raw_where_only_raw_fits(folder, rotation):
    made = write_set(folder, "sav", **ONE_OBJECT)
    shutil.rmtree(made.frames)
    write_turned_films(made, rotation, raw_masks=True)
    assert_object_is_under_its_mask(made)
    assert read_all(made).says("a.mp4", f"rotation of {rotation} degrees", "stored")
    clip = made.module().datasets["val"][0]
    assert tuple(clip.size) == (HEIGHT, WIDTH)


def test_polygons_drawn_upright_fit_turned_frames(folder):
    made = write_set(
        folder, "coco_video", **ONE_OBJECT, frame=save_turned(6), segmentation=box_polygon
    )
    assert_object_is_under_its_mask(made)


@pytest.mark.parametrize("segmentation", [encode, box_polygon], ids=["rle", "polygon"])
def test_raw_sizes_in_a_json_keep_turned_frames_raw(folder, segmentation):
    made = write_set(
        folder, "coco_video", **ONE_OBJECT, frame=save_turned(6, True), segmentation=segmentation
    )
    assert_object_is_under_its_mask(made)
    assert check_set(made).says("00000.jpg", ("exif", "orientation"))


@pytest.mark.parametrize("source", FILES)
@pytest.mark.parametrize("orientation", [6, 8])
def test_turned_frames_stay_raw_where_only_raw_fits(folder, source, orientation):
    made = write_set(folder, source, **ONE_OBJECT, frame=save_turned(orientation, True))
    assert_object_is_under_its_mask(made)
    assert check_set(made).says("0000", ".jpg", ("exif", "orientation"))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_check_names_a_turned_frame(folder, source, orientation):
    made = write_set(folder, source, **ONE_OBJECT, frame=save_turned(orientation))
    outcome = check_set(made)
    outcome.went_well()
    assert outcome.says("00000.jpg", ("exif", "orientation"))


@pytest.mark.parametrize("orientation", [3, 6])
def test_training_says_that_frames_are_turned(folder, orientation):
    made = write_set(folder, **ONE_OBJECT, frame=save_turned(orientation))
    assert read_all(made).says("00000.jpg", ("exif", "orientation"))


def test_clips_have_turned_frames_upright(folder):
    made = write_set(folder, **ONE_OBJECT, frame=save_turned(6))
    clip = made.module().datasets["val"][0]
    image = clip.frames[0].data / 255
    mask = clip.frames[0].objects[0].segment
    assert image[:, mask].mean() > 0.85
    assert image[:, ~mask].mean() < 0.5
    assert tuple(clip.size) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_orientations_that_turn_nothing_are_left_alone(folder, orientation):
    made = write_set(folder, **ONE_OBJECT, frame=save_turned(orientation, True))
    assert_object_is_under_its_mask(made)
    assert not check_set(made).says(("exif", "orientation"))


def test_a_turned_frame_that_never_fits_is_refused_with_its_sizes(folder):
    def save(path, labels):
        save_palette(path, labels[:30, :30])

    made = write_set(folder, **ONE_OBJECT, frame=save_turned(6), mask=save)
    check_set(made).is_refused("00000.png", "30 x 30", (SIZE, f"{HEIGHT} x {WIDTH}"))


def save_half(path, t):
    Image.fromarray(picture(t)).resize((WIDTH // 2, HEIGHT // 2)).save(path)


def polygons(folder, **options):
    return write_set(folder, "coco_video", **ONE_OBJECT, segmentation=box_polygon, **options)


def test_polygons_of_frames_that_were_resized_are_refused(folder):
    made = polygons(folder, frame=save_half)
    check_set(made).is_refused("00000.jpg", SIZE, f"{WIDTH // 2} x {HEIGHT // 2}")
    read_all(made).is_refused("00000.jpg", SIZE, f"{WIDTH // 2} x {HEIGHT // 2}")


def test_width_and_height_that_were_swapped_are_refused(folder):
    def swap(content):
        for image in content["images"]:
            image["width"], image["height"] = image["height"], image["width"]

    check_set(polygons(folder).edit(swap)).is_refused("00000.jpg", SIZE, f"{HEIGHT} x {WIDTH}")


def test_a_single_frame_of_another_size_is_refused(folder):
    made = polygons(folder)
    save_half(made.frames / "a" / "00003.jpg", 3)
    check_set(made).is_refused("00003.jpg", SIZE, f"{WIDTH // 2} x {HEIGHT // 2}")


def test_a_resized_frame_without_any_object_is_refused_too(folder):
    made = polygons(folder)
    save_half(made.frames / "a" / "00003.jpg", 3)
    made.edit(lambda c: c["annotations"].__delitem__(3))
    check_set(made).is_refused("00003.jpg", SIZE, f"{WIDTH // 2} x {HEIGHT // 2}")


@pytest.mark.parametrize("kept", ["none", "null"])
def test_sizes_that_a_json_does_not_tell_are_not_compared(folder, kept):
    def forget(content):
        for image in content["images"]:
            for key in ("width", "height"):
                if kept == "none":
                    del image[key]
                else:
                    image[key] = None

    made = polygons(folder).edit(forget)
    check_set(made).went_well()
    reader = made.reader()
    assert reader.masks(0, frames_of(reader)[0])[0].sum() == (label_map(1) > 0).sum()


@pytest.mark.parametrize("source", SOURCES)
def test_masks_of_frames_that_were_resized_are_refused(folder, source):
    made = write_set(folder, source, frame=save_half)
    check_set(made).is_refused(("0000", "frame 0"), SIZE, f"{WIDTH // 2} x {HEIGHT // 2}")


NUMBERS = [f"{t}" for t in range(12)]


def without_order(content):
    for image in content["images"]:
        del image["order_in_video"]


@pytest.mark.parametrize("name", ["frame_{}.jpg", "{}.jpg", "Frame {} (cut 2).jpg", "x1_{}_y.jpg"])
def test_names_without_leading_zeros_are_in_natural_order(folder, name):
    made = write_set(folder, "coco_video", num_frames=12, labels=lambda t: label_map(1),
                     frame_name=name)  # fmt: skip
    made.edit(without_order)
    assert file_names(made) == [name.format(t) for t in NUMBERS]
    check_set(made).went_well()


def test_natural_order_follows_path_where_there_is_no_file_name(folder):
    def as_path(content):
        without_order(content)
        for image in content["images"]:
            image["path"] = str(folder / "frames" / image.pop("file_name"))

    made = write_set(folder, "coco_video", num_frames=12, labels=lambda t: label_map(1),
                     frame_name="frame_{}.jpg")  # fmt: skip
    made.edit(as_path)
    assert file_names(made, image_root=None) == [f"frame_{t}.jpg" for t in NUMBERS]


def renumber(key, kind):
    def change(content):
        for position, image in enumerate(content["images"]):
            del image["order_in_video"]
            image[key] = kind(position % 12)

    return change


@pytest.mark.parametrize("key", ["order_in_video", "frame_id"])
@pytest.mark.parametrize("kind", [int, float, str])
def test_numbers_of_frames_count_before_names(folder, key, kind):
    made = write_set(folder, "coco_video", num_frames=12, labels=lambda t: label_map(1),
                     frame_name="frame_{}.jpg")  # fmt: skip
    made.edit(renumber(key, kind))
    assert file_names(made) == [f"frame_{t}.jpg" for t in NUMBERS]


def test_a_number_that_some_images_lack_orders_none(folder):
    def forget(content):
        for image in content["images"][2::3]:
            del image["order_in_video"]

    made = write_set(folder, "coco_video", num_frames=12, labels=lambda t: label_map(1),
                     frame_name="frame_{}.jpg")  # fmt: skip
    made.edit(forget)
    assert file_names(made) == [f"frame_{t}.jpg" for t in NUMBERS]


def test_frame_id_orders_where_order_in_video_is_null(folder):
    def change(content):
        for position, image in enumerate(content["images"]):
            image["order_in_video"], image["frame_id"] = None, -position

    made = write_set(folder, "coco_video", num_frames=12, labels=lambda t: label_map(1),
                     frame_name="frame_{}.jpg")  # fmt: skip
    made.edit(change)
    assert file_names(made) == [f"frame_{t}.jpg" for t in reversed(NUMBERS)]


def test_two_images_of_one_id_are_refused(folder):
    made = polygons(folder)
    made.edit(lambda c: c["images"][5].update(id=c["images"][2]["id"]))
    check_set(made).is_refused("train.json", "two images", "id 3")


def test_objects_without_a_mask_beside_others_are_said(folder):
    made = write_set(folder, "coco_video", segmentation=box_polygon)
    made.edit(lambda c: c["annotations"][5].update(segmentation=[], bbox=[4, 8, 14, 16]))
    assert check_set(made).says("00002.jpg", "train.json", "without a mask", "absent")


@pytest.mark.parametrize("source", FILES)
def test_folders_are_in_natural_order(folder, source):
    made = write_set(folder, source, num_frames=12, labels=lambda t: label_map(1),
                     frame_name="{}.jpg", mask_name="{}.png")  # fmt: skip
    step = 4 if source == "sav" else 1
    assert file_names(made) == [f"{step * t}.jpg" for t in range(12)]


BOX = [4, 8, 18, 8, 18, 24, 4, 24]
MALFORMED = {
    "odd number of coordinates": [BOX[:7]],
    "odd number beside a good polygon": [BOX, [1, 2, 3, 4, 5, 6, 7]],
    "one number": [[4]],
    "a text": "polygon",
    "texts": [["a", "b", "c", "d", "e", "f"]],
    "no numbers": [[None] * 8],
    "not finite": [[4, 8, float("nan"), 8, 18, 24, 4, 24]],
    "infinite": [[4, 8, float("inf"), 8, 18, 24, 4, 24]],
    "a number": 7,
    "a box": {"bbox": [4, 8, 14, 16]},
    "RLE without counts": {"size": [HEIGHT, WIDTH]},
    "RLE without size": {"counts": encode(label_map(1) > 0)["counts"]},
    "RLE with too few counts": {"size": [HEIGHT, WIDTH], "counts": [5, 9]},
    "RLE with too many counts": {"size": [HEIGHT, WIDTH], "counts": [5, 90000]},
    "RLE with negative counts": {"size": [HEIGHT, WIDTH], "counts": [-5, 3077]},
    "RLE without any count": {"size": [HEIGHT, WIDTH], "counts": []},
    "RLE whose counts are an empty text": {"size": [HEIGHT, WIDTH], "counts": ""},
    "RLE whose counts are cut": {
        "size": [HEIGHT, WIDTH],
        "counts": encode(label_map(1) > 0)["counts"][:5],
    },
}


def with_segmentation(folder, value):
    """A set whose third frame has `value` as its only segmentation."""
    made = polygons(folder)
    return made.edit(lambda c: c["annotations"][2].update(segmentation=value))


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_malformed_segmentations_are_refused(folder, value):
    made = with_segmentation(folder, value)
    check_set(made).is_refused("00002.jpg", "train.json")
    reader = made.reader()
    with pytest.raises(DataError, match=r"00002\.jpg"):
        reader.masks(0, frames_of(reader)[2])


LEFTOVERS = {
    "two points": [[5, 5, 6, 6]],
    "one point": [[5, 5]],
    "an empty polygon": [[]],
    "empty polygons": [[], []],
}


@pytest.mark.parametrize("value", LEFTOVERS.values(), ids=LEFTOVERS)
def test_a_frame_with_leftovers_of_polygons_alone_has_no_known_masks(folder, value):
    made = with_segmentation(folder, value)
    assert check_set(made).says("1 frames without a mask are left out")
    assert "00002.jpg" not in file_names(made)


@pytest.mark.parametrize(
    "value",
    [
        [[-500, -500, -400, -500, -400, -400]],
        [[500, 500, 600, 500, 600, 600]],
        [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4, 0.1, 0.4]],
        [[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]],
    ],
    ids=["before", "behind", "fractions of the frame", "far behind"],
)
def test_polygons_that_cover_no_pixel_are_said(folder, value):
    assert check_set(with_segmentation(folder, value)).says("00002.jpg")


def test_polygons_in_shares_of_the_frame_are_said(folder):
    value = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9]]
    assert check_set(with_segmentation(folder, value)).says("00002.jpg", "from 0 to 1")


def test_the_reason_is_said_where_no_polygon_covers_a_pixel(folder):
    def move(content):
        for item in content["annotations"]:
            item["segmentation"] = [[500, 500, 600, 500, 600, 600]]

    outcome = check_set(polygons(folder).edit(move))
    outcome.is_refused("no object on any frame", "00000.jpg", "train.json", "cover no pixel")


def uncompressed(mask) -> dict:
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    changes = np.flatnonzero(np.diff(flat)) if not flat[1] else None
    ends = np.concatenate([changes, [mask.size]]) if changes[-1] != mask.size else changes
    return {"size": list(mask.shape), "counts": np.diff([0, *ends]).astype(int).tolist()}


RIGHT = {
    "polygon": [BOX],
    "polygon and a leftover of two points": [BOX, [5, 9, 6, 9], []],
    "floats": [[float(value) for value in BOX]],
    "RLE": encode(label_map(1) > 0),
    "uncompressed RLE": uncompressed((label_map(1) > 0).astype(int)),
}


@pytest.mark.parametrize("value", RIGHT.values(), ids=RIGHT)
def test_segmentations_of_every_form_are_read(folder, value):
    made = with_segmentation(folder, value)
    check_set(made).went_well()
    reader = made.reader()
    mask = reader.masks(0, frames_of(reader)[2])[0]
    assert np.array_equal(mask, label_map(1) > 0)


def test_flat_polygons_are_read_or_refused(folder):
    made = with_segmentation(folder, BOX)
    outcome = check_set(made)
    if outcome.end:
        outcome.is_refused("00002.jpg", "train.json")
    else:
        reader = made.reader()
        assert np.array_equal(reader.masks(0, frames_of(reader)[2])[0], label_map(1) > 0)


def write_masklet(made, change) -> None:
    path = made.root / "a_manual.json"
    content = json.loads(path.read_text())
    change(content["masklet"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "value",
    [
        {"size": [HEIGHT, WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": encode(label_map(1) > 0)["counts"][:5]},
        {"size": [HEIGHT, WIDTH], "counts": 5},
        {"counts": "x"},
        [[4, 8, 18, 8, 18, 24]],
        "x",
    ],
    ids=["no counts", "empty", "cut", "number", "no size", "polygon", "text"],
)
def test_malformed_masks_of_sav_are_refused(folder, value):
    made = write_set(folder, "sav")
    write_masklet(made, lambda frames: frames[2].__setitem__(0, value))
    check_set(made).is_refused("a_manual.json", ("frame 8", "not an SA-V"))


def test_lists_of_masks_of_different_lengths_are_refused(folder):
    """An object is its position: where one is left out, the others would become each other."""
    made = write_set(folder, "sav")
    write_masklet(made, lambda frames: frames[2].pop(0))
    check_set(made).is_refused("a_manual.json", "1 at frame 8", "2 at frame")


def test_a_frame_of_sav_without_any_mask_is_read(folder):
    made = write_set(folder, "sav")
    write_masklet(made, lambda frames: frames[2].clear())
    check_set(made).went_well()


WHY = ("interpolat", "resiz", "smooth", "anti-alias", "blur")


def soft(labels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(labels[::2, ::2])
    return np.asarray(small.resize((WIDTH, HEIGHT), Image.BILINEAR))


def save_soft(path, labels):
    save_grey(path, soft(labels))


def save_soft_palette(path, labels):
    save_palette(path, soft(labels))


def save_compressed(path, labels):
    Image.fromarray(labels).save(path.with_suffix(".tmp.jpg"), quality=60)
    with Image.open(path.with_suffix(".tmp.jpg")) as image:
        image.load()
        image.save(path, format="PNG")
    path.with_suffix(".tmp.jpg").unlink()


SOFT = {"grey": save_soft, "palette": save_soft_palette, "JPEG": save_compressed}


@pytest.mark.parametrize("save", SOFT.values(), ids=SOFT)
def test_a_mask_resized_with_interpolation_is_warned_of(folder, save):
    made = write_set(folder, labels=lambda t: label_map(255, t=t), mask=save)
    assert check_set(made).says(".png", WHY)
    assert read_all(made).says(".png", WHY)


def test_two_grey_objects_resized_with_interpolation_are_warned_of(folder):
    made = write_set(folder, labels=lambda t: label_map(100, 200, t=t), mask=save_soft)
    assert check_set(made).says(".png", WHY)


def test_a_single_soft_mask_in_a_later_frame_is_found_by_the_check(folder):
    made = write_set(folder, labels=lambda t: label_map(255, t=t), mask=save_grey)
    save_soft(folder / "Annotations" / "a" / "00002.png", label_map(255))
    assert check_set(made).says("00002.png", WHY)


def test_soft_masks_of_one_object_each_keep_their_place(folder):
    made = write_set(folder, "png_folders", **ONE_OBJECT, mask=save_soft)
    reader = made.reader()
    mask, truth = reader.masks(0, frames_of(reader)[0])[1], label_map(1) > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.75


def many(t):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(6):
        labels[8 * k : 8 * k + 8] = k + 1
    return labels


def rings(t):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.clip((28 - np.hypot(y - 24, x - 32)) // 4, 0, 5).astype(np.uint8)


def thin(t):
    labels = label_map(1, t=t)
    labels[30, 4:60] = 2
    return labels


CLEAN = {
    "ids": lambda t: label_map(1, 2, 3, t=t),
    "spaced ids": lambda t: label_map(40, 80, 120, t=t),
    "one object, 255": lambda t: label_map(255, t=t),
    "one object, 1": lambda t: label_map(1, t=t),
    "six that touch": many,
    "six inside each other": rings,
    "a line of one pixel": thin,
}


@pytest.mark.parametrize("labels", CLEAN.values(), ids=CLEAN)
@pytest.mark.parametrize("save", [save_grey, save_palette])
def test_clean_masks_are_never_warned_of(folder, labels, save):
    made = write_set(folder, labels=labels, mask=save)
    outcome = check_set(made)
    outcome.went_well()
    assert not outcome.says(WHY)
    assert not outcome.says("ignore_id")
    assert not outcome.says("warning")


def test_masks_of_one_bit_are_never_warned_of(folder):
    def save(path, labels):
        Image.fromarray(labels).convert("1").save(path)

    made = write_set(folder, labels=lambda t: label_map(255, t=t), mask=save)
    outcome = check_set(made)
    outcome.went_well()
    assert not outcome.says(WHY)
    assert not outcome.says("ignore_id")


def with_rim(t):
    labels = label_map(1, t=t)
    rim = label_map(1, t=t)
    rim[6:26, 2 + t : 20 + t] = 255
    rim[labels > 0] = 1
    return rim


def save_void(path, labels):
    """A file of one object with a rim that is neither object nor background."""
    rows, columns = np.nonzero(labels)
    rim = np.zeros_like(labels)
    rim[rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3] = 255
    rim[labels > 0] = 1
    save_grey(path, rim)


VOID = {
    "palette": ("vos_folder", with_rim, save_palette),
    "grey": ("vos_folder", with_rim, save_grey),
    "one folder per object": ("png_folders", lambda t: label_map(1, t=t), save_void),
}


@pytest.mark.parametrize(("source", "labels", "save"), VOID.values(), ids=VOID)
def test_255_beside_ids_is_warned_of(folder, source, labels, save):
    made = write_set(folder, source, labels=labels, mask=save)
    assert check_set(made).says("255", "data.ignore_id", ".png")
    assert read_all(made).says("255", "data.ignore_id", ".png")


@pytest.mark.parametrize(("source", "labels", "save"), VOID.values(), ids=VOID)
def test_ignored_pixels_are_no_object(folder, source, labels, save):
    made = write_set(folder, source, labels=labels, mask=save)
    made.fields["ignore_id"] = 255
    reader = made.reader()
    masks = reader.masks(0, frames_of(reader)[0])
    assert [key for key, mask in masks.items() if mask.any()] == [1]
    assert np.array_equal(masks[1], label_map(1) > 0)
    outcome = check_set(made)
    outcome.went_well()
    assert not outcome.says("data.ignore_id", "255", ("warning", "object"))
    clip = made.module().datasets["val"][0]
    assert [item.object_id for item in clip.frames[0].objects] == [1]


def test_any_value_can_be_ignored(folder):
    made = write_set(folder, labels=lambda t: label_map(1, 7, t=t))
    made.fields["ignore_id"] = 7
    reader = made.reader()
    masks = reader.masks(0, frames_of(reader)[0])
    assert [key for key, mask in masks.items() if mask.any()] == [1]


def test_nothing_is_ignored_by_default(folder):
    made = write_set(folder, labels=with_rim)
    reader = made.reader()
    assert sorted(reader.masks(0, frames_of(reader)[0])) == [1, 255]


@pytest.mark.parametrize("value", ["-1", "0", "256", "many", "1.5"])
def test_what_cannot_be_ignored_is_refused(folder, value):
    made = write_set(folder)
    check_set(made, f"data.ignore_id={value}").is_refused("data.ignore_id", value)


def unlabelled(folder, gap=range(4, 8)):
    made = write_set(folder, "coco_video", num_frames=12, labels=lambda t: label_map(1))

    def forget(content):
        position = {image["id"]: image["order_in_video"] for image in content["images"]}
        content["annotations"] = [
            item for item in content["annotations"] if position[item["image_id"]] not in gap
        ]

    return made.edit(forget)


@pytest.mark.parametrize(
    "gap", [range(4, 8), range(4), range(8, 12)], ids=["middle", "start", "end"]
)
def test_frames_that_were_never_labelled_are_said(folder, gap):
    made = unlabelled(folder, gap)
    outcome = check_set(made)
    outcome.went_well()
    assert outcome.says("data.unlabelled", "train.json")
    assert read_all(made).says("data.unlabelled", "train.json")


def test_unlabelled_frames_are_empty_by_default(folder):
    reader = unlabelled(folder).reader()
    assert [frame.frame_idx for frame in frames_of(reader)] == list(range(12))
    masks = reader.masks(0, frames_of(reader)[5])
    assert not any(mask.any() for mask in masks.values())


def test_unlabelled_frames_can_be_skipped(folder):
    made = unlabelled(folder)
    made.fields["unlabelled"] = "skip"
    frames = [frame.frame_idx for frame in frames_of(made.reader())]
    assert frames == [0, 1, 2, 3, 8, 9, 10, 11]
    check_set(made).went_well()


def test_empty_can_be_chosen_by_name(folder):
    made = unlabelled(folder)
    made.fields["unlabelled"] = "empty"
    assert len(frames_of(made.reader())) == 12


def test_labelled_frames_are_not_called_unlabelled(folder):
    made = unlabelled(folder, gap=())
    outcome = check_set(made)
    outcome.went_well()
    assert not outcome.says("unlabelled")


def test_another_way_with_unlabelled_frames_is_refused(folder):
    check_set(unlabelled(folder), "data.unlabelled=drop").is_refused(
        "data.unlabelled", "drop", "empty", "skip"
    )


def test_the_guide_tells_of_what_can_be_set():
    guide = (ROOT / "docs" / "guide.md").read_text()
    assert "data.unlabelled" in guide
    assert "data.ignore_id" in guide


@pytest.mark.parametrize("source", SOURCES)
def test_a_sound_data_set_is_read_without_a_word(folder, source):
    made = write_set(folder, source, frame=save_frame)
    outcome = check_set(made)
    outcome.went_well()
    assert not outcome.says("00000.jpg")
    assert not read_all(made).lines
