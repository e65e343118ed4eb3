"""The registry of sources, and readers beside the official code."""

import pickle
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scenes import label_map, save_mask
from training.dataset.vos_segment_loader import PalettisedPNGSegmentLoader

from core.config import DataConfig
from core.data.readers.label_maps import read_palette_masks
from core.data.readers.reader import SOURCES
from core.data.readers.sav import _Movie


def test_every_source_but_the_drawn_one_has_a_reader():
    with pytest.raises(
        ValueError, match=f"one of {', '.join(['synthetic', *SOURCES, 'auto'])}, got"
    ):
        DataConfig(source="none")


def palette_png(path) -> None:
    save_mask(path, label_map(3, 1, 2))


def grey_png(path) -> None:
    labels = label_map(2, 3, 1) * 70
    labels[0, 20:] = 5  # the first pixels that are not background
    Image.fromarray(labels).save(path)


def one_bit_png(path) -> None:
    Image.fromarray(label_map(2) > 0).save(path)


def empty_png(path) -> None:
    save_mask(path, label_map())


@pytest.mark.parametrize("write", [palette_png, grey_png, one_bit_png, empty_png])
def test_palette_masks_are_those_of_the_official_loader_in_its_order(tmp_path, write):
    write(tmp_path / "00007.png")
    official = PalettisedPNGSegmentLoader(str(tmp_path)).load(7)
    masks = read_palette_masks(tmp_path / "00007.png")
    assert list(masks) == list(official)
    for key, mask in masks.items():
        assert mask.dtype == np.bool_
        assert torch.equal(torch.from_numpy(mask), official[key])


def write_movie(path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, (32, 24))
    for t in range(6):
        writer.write(np.full((24, 32, 3), 40 * t, np.uint8))
    writer.release()


def test_a_movie_gives_the_frame_asked_for_in_any_order(tmp_path):
    write_movie(tmp_path / "a.mp4")
    movie = _Movie()
    indices = [3, 3, 4, 0, 5, 2]
    levels = [movie.frame(str(tmp_path / "a.mp4"), i).mean() for i in indices]
    assert levels == pytest.approx([40 * i for i in indices], abs=8)


def write_stamped(path, stamps) -> None:
    """Write a movie whose frames have these times, in 24ths of a second, and tell themselves."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 12
        for k, stamp in enumerate(stamps):
            pixels = np.full((48, 64, 3), 2 * k % 256, np.uint8)
            pixels[: 4 * (k % 12)] = 255 - 2 * k % 256
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class Watched:
    """``cv2.VideoCapture`` that counts decoded frames, and may land beside the frame sought."""

    decoded, beside, capture = 0, 0, cv2.VideoCapture

    def __init__(self, path):
        self.inner = Watched.capture(path)

    def set(self, prop, value):
        if prop == cv2.CAP_PROP_POS_FRAMES:
            value += Watched.beside
        return self.inner.set(prop, value)

    def grab(self):
        Watched.decoded += 1
        return self.inner.grab()

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Watched)
    monkeypatch.setattr(Watched, "decoded", 0)
    return monkeypatch


WITH_A_GAP = [*range(60), *range(65, 165)]


# how many frames are decoded: one for each that is near or sought, or all from the beginning
SOUGHT, READ_THROUGH = 6 + 4, 1 + 151 + 1 + 41 + 115 + 101 + 100 + 4


@pytest.mark.parametrize(
    ("stamps", "beside", "decoded"),
    [
        (range(160), 0, SOUGHT),
        (WITH_A_GAP, 0, READ_THROUGH),
        (range(160), -1, READ_THROUGH),
        (range(160), 1, READ_THROUGH),
    ],
    ids=["exact", "gap", "early", "late"],
)
def test_far_frames_of_a_movie_are_sought_where_that_is_exact(
    tmp_path, watched, stamps, beside, decoded
):
    path = str(tmp_path / "a.mp4")
    write_stamped(path, stamps)
    capture, frames = Watched.capture(path), []
    while capture.grab():
        frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    assert len(frames) == 160
    watched.setattr(Watched, "beside", beside)
    movie = _Movie()
    for index in (150, 151, 40, 155, 100, 99, 3):
        np.testing.assert_array_equal(movie.frame(path, index), frames[index])
    assert Watched.decoded == decoded


def test_an_open_movie_can_be_sent_to_a_worker(tmp_path):
    write_movie(tmp_path / "a.mp4")
    movie = _Movie()
    first = movie.frame(str(tmp_path / "a.mp4"), 1)
    again = pickle.loads(pickle.dumps(movie)).frame(str(tmp_path / "a.mp4"), 1)
    np.testing.assert_array_equal(again, first)
