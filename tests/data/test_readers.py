"""The registry of sources, and readers beside the official code."""

import pickle

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


def test_an_open_movie_can_be_sent_to_a_worker(tmp_path):
    write_movie(tmp_path / "a.mp4")
    movie = _Movie()
    first = movie.frame(str(tmp_path / "a.mp4"), 1)
    again = pickle.loads(pickle.dumps(movie)).frame(str(tmp_path / "a.mp4"), 1)
    np.testing.assert_array_equal(again, first)
