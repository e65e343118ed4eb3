"""Tracking whole videos: the masks are those of Meta's predictor that was given everything."""

import math
from importlib.resources import files
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from random_weights import write_random_weights
from videos import Disc, InMemory, draw

from core.checks import UserError
from core.config import ModelConfig, TrainerConfig
from core.devices import device_of
from core.model.build import architecture_node
from core.tracking.directions import store_backwards, track_backwards, track_both_ways
from core.tracking.frames import ImageFolder
from core.tracking.prompts import Prompt
from core.tracking.tracker import TrackedFrame, track
from core.tracking.weights import build_predictor, find

CONFIGS_OF_HIERA_TINY = ("configs/sam2/sam2_hiera_t.yaml", "configs/sam2.1/sam2.1_hiera_t.yaml")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    path = write_random_weights(tmp_path_factory.mktemp("weights"))
    return build_predictor(find(str(path), ModelConfig()), torch.device("cpu"))


DISCS = [
    Disc(1, (20, 20), 9),
    Disc(2, (60, 30), 8, (-1.0, 1.2)),
    Disc(7, (40, 40), 7, (0.5, -0.9), first=9),
]


@pytest.fixture(scope="module")
def video():
    """Two objects from the start and one that comes late, more frames than any memory has."""
    return draw(30, (61, 83), DISCS)


def first_masks(video):
    starts = {key: int(np.flatnonzero(video.masks(key).any((1, 2)))[0]) for key in video.ids}
    return [Prompt(t, key, mask=video.masks(key)[t]) for key, t in starts.items()]


def meta_state(predictor, folder):
    """A state of Meta's own making, with all frames in memory."""
    return predictor.init_state(video_path=str(folder))


def write_jpegs(folder, video):
    for t, image in enumerate(video.images):
        Image.fromarray(image).save(folder / f"{t:05d}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, video):
    return write_jpegs(tmp_path_factory.mktemp("frames"), video)


def alone(predictor, folder, prompt, **walk):
    """Meta's `vos_separate_inference_per_object`: a pass over the video for one object alone."""
    state = meta_state(predictor, folder)
    predictor.add_new_mask(state, prompt.frame, prompt.object_id, prompt.mask)
    return {t: logits[0, 0] for t, _, logits in predictor.propagate_in_video(state, **walk)}


@pytest.mark.parametrize("num_frames", [30, pytest.param(200, marks=pytest.mark.long)])
def test_masks_equal_those_of_separate_passes_with_all_frames_in_memory(
    predictor, tmp_path, num_frames
):
    video = draw(num_frames, (61, 83), DISCS)
    folder, prompts = write_jpegs(tmp_path, video), first_masks(video)
    expected = {prompt.object_id: alone(predictor, folder, prompt) for prompt in prompts}
    indices = []
    for frame in track(predictor, ImageFolder(folder, "source", 10**6), prompts):
        indices.append(frame.index)
        assert frame.object_ids == tuple(key for key in (1, 2, 7) if frame.index in expected[key])
        for key, logits in zip(frame.object_ids, frame.logits, strict=True):
            assert torch.equal(logits, expected[key][frame.index])
    assert indices == list(range(num_frames))


def meta_labels(predictor, folder, prompts, size):
    """Meta's evaluation: a pass per object, -1024 before it, the highest score wins, > 0."""
    scores = torch.full((len(prompts), len(list(folder.iterdir())), *size), -1024.0)
    for k, prompt in enumerate(prompts):
        for t, logits in alone(predictor, folder, prompt, start_frame_idx=prompt.frame).items():
            scores[k, t] = logits
    best, winner = scores.max(0)
    ids = torch.tensor([prompt.object_id for prompt in prompts])
    return torch.where(best > 0, ids[winner], 0).numpy()


@pytest.mark.parametrize(
    ("size", "length", "discs"),
    [
        ((61, 83), 16, DISCS),  # crossing, one late
        ((97, 54), 12, [Disc(3, (20, 40), 14), Disc(5, (27, 44), 12, (0.4, 0.3), last=6)]),
        ((48, 101), 21, [Disc(k, (20 * k, 24), 11, (k - 2, 1), first=3 * k) for k in (1, 2, 4)]),
    ],
    ids=["late", "vanishing", "all late"],
)
def test_masks_equal_those_of_metas_evaluation(predictor, tmp_path, size, length, discs):
    video = draw(length, size, discs)
    folder, prompts = write_jpegs(tmp_path, video), first_masks(video)
    expected, owned = meta_labels(predictor, folder, prompts, size), set()
    for frame in track(predictor, ImageFolder(folder, "source", 10**6), prompts):
        labels = np.zeros(size, np.int64)
        for key, mask in frame.masks(overlapping=False).items():
            labels[mask] = key
        assert np.array_equal(labels, expected[frame.index])
        owned |= set(np.unique(labels).tolist())
    assert owned == {0, *video.ids}


def test_a_pixel_belongs_to_the_object_of_the_highest_logit(predictor, video):
    *_, frame = track(predictor, InMemory(video.images[:3]), first_masks(video)[:2])
    free, apart = frame.masks(overlapping=True), frame.masks(overlapping=False)
    first, second = frame.logits.numpy()
    assert np.array_equal(free[1], first > 0)
    assert np.array_equal(apart[1], (first > 0) & (first >= second))
    assert np.array_equal(apart[2], (second > 0) & (second > first))


def test_the_lowest_id_wins_among_equals():
    logits = torch.randint(-1, 3, (4, 20, 30), generator=torch.manual_seed(0)).float()
    logits[1, 0] = math.nan
    frame = TrackedFrame(0, np.zeros((20, 30, 3), np.uint8), (2, 3, 5, 9), logits, logits)
    winner = logits.numpy().argmax(0)  # the first of equals; NaN before any number
    for k, mask in enumerate(frame.masks(overlapping=False).values()):
        assert np.array_equal(mask, (winner == k) & (logits[k].numpy() > 0))


def test_frames_are_read_once_and_in_order(predictor, video):
    frames = InMemory(video.images[:12])
    prompt = Prompt(4, 1, mask=video.masks(1)[4])
    assert [frame.object_ids for frame in track(predictor, frames, [prompt])][3:5] == [(), (1,)]
    assert frames.asked == list(range(12))


@pytest.mark.long
def test_what_is_kept_does_not_grow(predictor, video):
    images = np.concatenate([video.images] * 2)
    states = []
    make = type(predictor).init_state

    def init_state(self, *arguments, **options):
        states.append(make(self, *arguments, **options))
        return states[-1]

    sizes = []
    with patch.object(type(predictor), "init_state", init_state):
        for frame in track(predictor, InMemory(images), first_masks(video)):
            if frame.index in (35, 55):
                sizes.append(_tensor_bytes(states[0]))
    assert sizes[0] == sizes[1]


def _tensor_bytes(value):
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_tensor_bytes, value.values())) + 100 * len(value)
    return sum(map(_tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


@pytest.mark.parametrize("label", [1, 0])
def test_a_later_prompt_corrects_what_was_tracked(predictor, video, folder, label):
    state = meta_state(predictor, folder)
    predictor.add_new_mask(state, 0, 1, video.masks(1)[0])
    expected = {}
    for t, _, logits in predictor.propagate_in_video(state, max_frame_num_to_track=6):
        expected[t] = logits[0, 0]
    clicks = {"points": np.array([[30.0, 25.0]]), "labels": np.array([label])}
    _, _, logits = predictor.add_new_points_or_box(state, 6, 1, **clicks)
    expected[6] = logits[0, 0]
    for t, _, logits in predictor.propagate_in_video(state, start_frame_idx=7):
        expected[t] = logits[0, 0]
    prompts = [Prompt(0, 1, mask=video.masks(1)[0]), Prompt(6, 1, **clicks)]
    tracked = list(track(predictor, ImageFolder(folder, "source", 10**6), prompts))
    assert all(torch.equal(frame.logits[0], expected[frame.index]) for frame in tracked)
    assert not torch.equal(tracked[8].logits[0], alone(predictor, folder, prompts[0])[8])


def test_backwards_equals_meta_in_a_state_of_its_own(predictor, video, folder):
    prompts = [Prompt(25, 1, mask=video.masks(1)[25]), Prompt(20, 2, mask=video.masks(2)[20])]
    expected = {
        prompt.object_id: alone(
            predictor, folder, prompt, start_frame_idx=prompt.frame, reverse=True
        )
        for prompt in prompts
    }
    tracked = list(track_backwards(predictor, ImageFolder(folder, "source", 10**6), prompts))
    assert [frame.index for frame in tracked] == list(range(24, -1, -1))
    for frame in tracked:
        assert frame.object_ids == ((1, 2) if frame.index < 20 else (1,))
        for key, logits in zip(frame.object_ids, frame.logits, strict=True):
            assert torch.equal(logits, expected[key][frame.index])


def test_both_ways_equals_backwards_before_the_first_prompts_and_forwards_behind(
    predictor, video, folder, tmp_path
):
    prompts = [Prompt(8, 1, mask=video.masks(1)[8]), Prompt(4, 2, mask=video.masks(2)[4])]
    frames = ImageFolder(folder, "source", 10**6)
    expected = {frame.index: {} for frame in track(predictor, frames, prompts)}
    for tracked in (track(predictor, frames, prompts), track_backwards(predictor, frames, prompts)):
        for frame in tracked:
            logits = frame.logits.clone()
            expected[frame.index] |= dict(zip(frame.object_ids, logits, strict=True))
    stored = list(store_backwards(predictor, frames, prompts, tmp_path))
    assert stored == list(range(7, -1, -1))
    for frame in track_both_ways(predictor, frames, prompts, tmp_path):
        assert frame.object_ids == (1, 2)
        for key, logits in zip(frame.object_ids, frame.logits, strict=True):
            assert torch.equal(logits, expected[frame.index][key])
    assert not list(tmp_path.iterdir())


def a_mask(shape=(61, 83), filled=True):
    mask = np.zeros(shape, bool)
    mask[5:9, 5:9] = filled
    return mask


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "has no prompt"),
        ([Prompt(0, 1, mask=a_mask(filled=False))], "object 1 on frame 0: the mask is empty"),
        ([Prompt(0, 1, mask=a_mask((83, 61)))], "61 x 83 pixels, expected the video's 83 x 61"),
        ([Prompt(0, 1, mask=a_mask())] * 2, "object 1 on frame 0 is given twice"),
        ([Prompt(30, 1, mask=a_mask())], "the video has the frames 0 to 29"),
        ([Prompt(-1, 1, mask=a_mask())], "the video has the frames 0 to 29"),
        ([Prompt(0, 1)], "is empty, expected a mask, a box or points"),
        ([Prompt(0, 1, box=(9, 5, 5, 9))], "x0 <= x1"),
        ([Prompt(0, 1, box=(0, 0, 90, 20))], "inside the video's 83 x 61"),
        ([Prompt(0, 1, points=np.ones((1, 2)))], "points without labels"),
        ([Prompt(0, 1, points=np.ones((1, 2)), labels=np.zeros(1))], "a positive point"),
        (
            [Prompt(k, 1, points=np.ones((1, 2)), labels=np.full(1, k)) for k in (1, 0)],
            "object 1 on frame 0: expected a positive point",
        ),
        ([Prompt(0, 1, points=np.ones((1, 2)), labels=np.full(1, 3))], "labels must be 1"),
        ([Prompt(0, 1, points=np.full((1, 2), 99), labels=np.ones(1))], "lies outside"),
        ([Prompt(0, 1, mask=a_mask(), box=(0, 0, 5, 5))], "one or the other"),
    ],
)
def test_prompts_that_do_not_fit_are_refused_before_anything_runs(
    predictor, video, prompts, message
):
    frames = InMemory(video.images)
    with pytest.raises(UserError, match=message):
        next(track(predictor, frames, prompts))
    assert frames.asked == []


def test_a_frame_of_another_size_is_refused_by_name(predictor, video, tmp_path):
    for t in range(3):
        image = Image.fromarray(video.images[t])
        image.resize((50, 40) if t == 2 else image.size).save(tmp_path / f"shot_{t}.png")
    tracked = track(
        predictor, ImageFolder(tmp_path, "source", 10**6), [Prompt(0, 1, mask=a_mask())]
    )
    with pytest.raises(UserError, match=r"shot_2.png is 50 x 40 pixels, expected 83 x 61"):
        list(tracked)


def test_images_come_in_the_order_of_their_numbers(tmp_path):
    for name in (
        "cam2_frame10.png",
        "cam2_frame9.PNG",
        "cam1_frame11.jpg",
        "notes.txt",
        "._x1.png",
    ):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name, "PNG")
    frames = ImageFolder(tmp_path, "source", 10**6)
    assert frames.names == ["cam1_frame11", "cam2_frame9", "cam2_frame10"]


def test_images_are_upright_and_of_16_bits_as_in_training(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned clockwise
    colors = np.zeros((8, 12, 3), np.uint8)
    colors[:4] = (200, 20, 60)
    Image.fromarray(colors).save(tmp_path / "1.png", exif=exif)
    grey = np.arange(12 * 8, dtype=np.uint16).reshape(12, 8) * 257
    Image.fromarray(grey).save(tmp_path / "2.png")
    frames = ImageFolder(tmp_path, "source", 10**6)
    assert frames.size == (12, 8)
    assert np.array_equal(frames.image(0), np.rot90(colors, -1))
    assert np.array_equal(frames.image(1), np.repeat(grey[..., None] // 257, 3, axis=2))


def test_an_image_that_cannot_be_used_is_named(tmp_path):
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1.png has 12 x 8 pixels, more than data.max_image_pix"):
        ImageFolder(tmp_path, "source", 95)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"2.png cannot be "):
        ImageFolder(tmp_path, "source", 96).image(1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "has no images"),
        (("a1.png", "b.png"), "without a number in its name: b.png"),
        (("a1.png", "b01.png"), "two images with the same number: a1.png and b01.png"),
    ],
)
def test_a_folder_that_gives_no_order_is_refused(tmp_path, names, message):
    for name in names:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    with pytest.raises(UserError, match=message):
        ImageFolder(tmp_path, "source", 10**6)


@pytest.mark.parametrize(
    ("chosen", "device"),
    [
        ({}, "cuda"),
        ({"accelerator": "cpu"}, "cpu"),
        ({"devices": 1}, "cuda"),
        ({"accelerator": "gpu", "devices": [1]}, "cuda:1"),
        ({"accelerator": "cpu", "devices": [0]}, "cpu"),
    ],
)
def test_the_device_is_the_one_that_is_named(monkeypatch, chosen, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(TrainerConfig(**chosen)) == torch.device(device)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"accelerator": "tpu"}, r"trainer\.accelerator=tpu is not available"),
        ({"accelerator": "gpus"}, r"trainer\.accelerator must be one of auto, cpu, gpu, "),
        ({"devices": [0, 1]}, r"trainer\.devices must be auto, 1 or a list of one number .*0, 1"),
        ({"devices": 2}, r"they take one device, got 2"),
        ({"devices": "0,1"}, r"they take one device, got '0,1'"),
        ({"devices": [2]}, r"a list of one number from 0 to 1: cuda has no other device here"),
        ({"accelerator": "cpu", "devices": [1]}, r"from 0 to 0: cpu has no other device here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, chosen, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        device_of(TrainerConfig(**chosen))


def test_weights_of_sam_2_0_give_what_sam_2_0_gives(predictor, video, tmp_path):
    """Bit for bit: as with the settings of its own files, whatever is drawn at random."""
    new = ("no_obj_embed_spatial", "obj_ptr_tpos_proj")
    state = {k: v for k, v in predictor.state_dict().items() if not k.startswith(new)}
    torch.save({"model": state, "image_size": predictor.image_size}, tmp_path / "sam2.pt")
    found = find(str(tmp_path / "sam2.pt"), ModelConfig())

    node = architecture_node(found.model)
    packaged = [OmegaConf.load(files("sam2") / path).model for path in CONFIGS_OF_HIERA_TINY]
    for key, value in packaged[1].items():
        if packaged[0].get(key) != value:
            node[key] = packaged[0].get(key, False)
    node["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    old = instantiate(node, _convert_="all")
    old.load_state_dict(state)

    frames = InMemory(video.images[:4])
    prompts = [prompt for prompt in first_masks(video) if prompt.frame == 0]
    expected = torch.stack([frame.logits for frame in track(old.eval(), frames, prompts)])
    assert (expected > -1000).all()
    for seed in (1, 2):
        torch.manual_seed(seed)
        built = build_predictor(found, torch.device("cpu"))
        logits = torch.stack([frame.logits for frame in track(built, frames, prompts)])
        assert torch.equal(logits, expected)
