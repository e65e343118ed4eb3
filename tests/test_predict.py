"""``python -m core.predict``: prompts as people keep them, and what is written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import write_random_weights
from videos import Disc, InMemory, draw, write_labels

from core.checks import UserError
from core.config import to_config
from core.predict.__main__ import main
from core.predict.draw import draw_grid
from core.predict.prompt_files import read_prompts
from core.predict.settings import PredictConfig
from core.predict.source import choose_frames, open_source

SIZE = (61, 83)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def clip():
    return draw(8, SIZE, [Disc(1, (20, 20), 9), Disc(2, (60, 30), 8, (-1.0, 1.2))])


@pytest.fixture
def folder(tmp_path, clip):
    folder = tmp_path / "my shots, 2.0"
    folder.mkdir()
    for t, image in enumerate(clip.images):
        Image.fromarray(image).save(folder / f"shot_{10 + t}.png")
    return folder


@pytest.fixture
def predict(weights, folder, tmp_path, capsys):
    def run(*overrides):
        arguments = [f"weights={weights}", f"source={folder}", f"out={tmp_path / 'out'}"]
        status = main([*arguments, "trainer.accelerator=cpu", *overrides])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def write_json(path, *entries):
    path.write_text(json.dumps(entries))
    return path


BOX = {"frame": 0, "object": 1, "box": [10, 10, 30, 30]}


def test_masks_of_both_directions_and_a_film_are_written(predict, tmp_path, clip):
    pytest.importorskip("av")
    write_labels(tmp_path / "first.png", clip.labels[3])
    Image.fromarray(clip.masks(2)[5].astype(np.uint8)).save(tmp_path / "two.png")
    prompts = write_json(
        tmp_path / "prompts with = and ,.json",
        {"frame": 3, "object": 1, "box": [10, 10, 34, 34]},
        {"frame": 5, "object": 2, "mask": "two.png"},
    )
    status, said = predict(f"prompts={prompts}")
    assert status == 0, said
    out = tmp_path / "out"
    names = [f"shot_{t}.png" for t in range(10, 18)]
    assert sorted(path.name for path in (out / "masks").iterdir()) == names
    for name in names:
        with Image.open(out / "masks" / name) as image:
            assert (image.mode, image.size) == ("P", (83, 61))
    assert 2 in np.unique(np.asarray(Image.open(out / "masks" / "shot_15.png")))
    assert sorted(path.name for path in out.iterdir()) == ["film.mp4", "masks"]
    status, said = predict(f"prompts={prompts}")
    assert status == 1
    assert "has results already" in said


def test_chosen_frames_and_folders_of_objects(predict, weights, tmp_path):
    prompts = write_json(tmp_path / "p.json", {**BOX, "frame": 2, "object": 2001})
    overrides = ("frames=2:8:2", "film=false", "per_object=true", "model=auto")
    status, said = predict(f"prompts={prompts}", *overrides, "model.image_size=64")
    assert status == 0, said
    assert f"weights     {weights}\n" in said
    masks = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("masks/*/*"))
    assert masks == [f"masks/2001/shot_{t}.png" for t in (12, 14, 16)]


def test_draw_writes_a_grid_and_prompts_that_can_be_read(predict, tmp_path):
    status, said = predict("prompts=draw", "frames=1:")
    assert status == 0, said
    template = tmp_path / "out" / "prompts.json"
    assert f"prompts={template}" in said
    frames = choose_frames(InMemory(np.zeros((8, *SIZE, 3), np.uint8)), "1:")
    assert [prompt.frame for prompt in read_prompts(str(template), frames)] == [0, 0]
    Image.open(tmp_path / "out" / "first_frame.png").verify()
    template.write_text("mine")
    predict("prompts=draw")
    assert template.read_text() == "mine"


def test_a_folder_with_a_dot_in_its_name_has_results_of_its_own(predict):
    status, said = predict("prompts=draw", "out=null")
    assert status == 0, said
    assert "_predictions/my shots, 2.0/prompts.json" in said


def test_the_grid_leaves_the_frame_between_its_lines():
    image = np.full((90, 160, 3), 77, np.uint8)
    drawn = np.asarray(draw_grid(image))
    assert drawn.shape == (44 + 450, 44 + 800, 3)
    assert (drawn[44 + 20, 44 + 20] == 77).all()
    assert not (drawn[44 + 20, 44 + 100] == 77).all()  # x = 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompts=null"], "prompts is missing"),
        (["source=nothing.mp4"], "source=nothing.mp4 does not exist"),
        (["prompts=nothing.json"], "prompts=nothing.json does not exist"),
        (["weights=nothing.pt"], "weights=nothing.pt does not exist"),
        (["frames=9:"], "names no frame: the video has the frames 0 to 7"),
        (["frames=1:2:0"], "frames must be null or FIRST:END:STRIDE"),
        (
            ["frames=3:"],
            "frame 0 (shot_10) is not tracked, expected one of the source's frames 3 (shot_13)",
        ),
        (["direction=back"], "direction must be one of both, forward"),
    ],
)
def test_mistakes_end_in_one_sentence_before_anything_is_written(
    predict, tmp_path, overrides, message
):
    prompts = write_json(tmp_path / "p.json", BOX)
    status, said = predict(f"prompts={prompts}", *overrides)
    assert status == 1
    (line,) = said.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_memory_that_does_not_suffice_ends_in_one_sentence(predict, tmp_path, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("core.predict.program.track", run_out)
    prompts = write_json(tmp_path / "p.json", BOX)
    status, said = predict(f"prompts={prompts}", "film=false", "model.image_size=96")
    assert status == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        "error: out of memory, try trainer.precision=bf16-mixed (rounded activations)"
        " or model.image_size=64 (coarser masks)"
    )


# prompts


@pytest.fixture
def frames(clip):
    return choose_frames(InMemory(clip.images), None)


def test_every_id_of_a_png_is_an_object_of_the_first_frame(tmp_path, clip, frames):
    labels = clip.labels[0].copy()
    labels[0, 0] = 255
    write_labels(tmp_path / "first.png", labels)
    prompts = read_prompts(str(tmp_path / "first.png"), frames)
    assert [(prompt.frame, prompt.object_id) for prompt in prompts] == [(0, 1), (0, 2)]
    assert np.array_equal(prompts[1].mask, clip.masks(2)[0])


@pytest.mark.parametrize(
    ("values", "ids"),
    [((85, 170, 255), (85, 170, 255)), ((255, 256), (255, 256)), ((1, 255), (1,))],
    ids=str,
)
def test_255_is_an_object_of_a_png_as_it_is_in_training(tmp_path, frames, values, ids):
    labels = np.zeros(SIZE, np.int64)
    for k, value in enumerate(values):
        labels[10 * k : 10 * k + 5] = value
    write_labels(tmp_path / "first.png", labels)
    prompts = read_prompts(str(tmp_path / "first.png"), frames)
    assert [prompt.object_id for prompt in prompts] == list(ids)
    assert np.array_equal(prompts[-1].mask, labels == ids[-1])


def test_colours_of_a_png_are_the_ids_that_they_are_in_training(tmp_path, frames):
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[:5], colors[10:15], colors[20:25] = (128, 0, 0), (0, 128, 0), (0, 0, 255)
    Image.fromarray(colors).save(tmp_path / "first.png")
    prompts = read_prompts(str(tmp_path / "first.png"), frames)
    assert [prompt.object_id for prompt in prompts] == [1, 2, 256 + 0x0000FF]
    assert np.array_equal(prompts[1].mask, colors[..., 1] > 0)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA"])
def test_a_black_and_white_png_is_one_object(tmp_path, clip, frames, mode):
    white = Image.fromarray((clip.masks(2)[0] * 255).astype(np.uint8)).convert(mode)
    white.save(tmp_path / "first.png")
    (prompt,) = read_prompts(str(tmp_path / "first.png"), frames)
    assert prompt.object_id == 1
    assert np.array_equal(prompt.mask, clip.masks(2)[0])


def test_pngs_of_a_folder_go_by_the_names_of_images_or_numbers_of_frames(tmp_path, clip):
    for name, t in (("00003", 3), ("5", 5)):
        write_labels(tmp_path / f"{name}.png", clip.labels[t])
    frames = choose_frames(InMemory(clip.images), "1:")
    prompts = read_prompts(str(tmp_path), frames)
    assert sorted({prompt.frame for prompt in prompts}) == [2, 4]


@pytest.mark.parametrize(
    ("chosen", "place"), [(None, 2), ("2:5", 0), ("::2", 1), ("3:", None), ("1::2", None)]
)
def test_a_png_named_after_an_image_is_put_on_no_other_frame(tmp_path, folder, clip, chosen, place):
    """The images are called 00001, 00002, ..., so that 00003 is the third, not frame 3."""
    for path in sorted(folder.iterdir()):
        path.rename(folder / f"{int(path.stem[5:]) - 9:05d}.png")
    (tmp_path / "prompts").mkdir()
    write_labels(tmp_path / "prompts" / "00003.png", clip.labels[2])
    frames = choose_frames(open_source(str(folder), 10**6), chosen)
    if place is None:
        with pytest.raises(UserError, match=r"00003.png: frame 2 \(00003\) is not tracked"):
            read_prompts(str(tmp_path / "prompts"), frames)
    else:
        assert frames.names[place] == "00003"
        prompts = read_prompts(str(tmp_path / "prompts"), frames)
        assert {prompt.frame for prompt in prompts} == {place}


def test_the_pngs_of_a_folder_are_read_as_one_video(tmp_path, clip, frames):
    """Frames without an object are left out, and 255 is what it is in the frames together."""
    for t, values in enumerate(((1, 2, 255), (), (255,), (2,))):
        labels = np.zeros(SIZE, np.int64)
        for value in values:
            labels[value % 50] = value
        write_labels(tmp_path / f"{t}.png", labels)
    prompts = read_prompts(str(tmp_path), frames)
    assert [(prompt.frame, prompt.object_id) for prompt in prompts] == [(0, 1), (0, 2), (3, 2)]
    for t in (0, 3):
        write_labels(tmp_path / f"{t}.png", np.zeros(SIZE, np.int64))
    (prompt,) = read_prompts(str(tmp_path), frames)
    assert (prompt.frame, prompt.object_id) == (2, 1)
    write_labels(tmp_path / "2.png", np.zeros(SIZE, np.int64))
    with pytest.raises(UserError, match="has no PNG with an object in it"):
        read_prompts(str(tmp_path), frames)


def test_json_holds_boxes_points_and_masks(tmp_path, clip, frames):
    Image.fromarray(clip.masks(1)[0].astype(np.uint8)).save(tmp_path / "m.png")
    rle = {"size": list(SIZE), "counts": [0, 61, 61 * 82]}
    path = write_json(
        tmp_path / "p.json",
        BOX,
        {"frame": 2, "object": 256, "points": [[1, 2.5], [3, 4]], "labels": [1, 0]},
        {"frame": 0, "object": 3, "mask": "m.png"},
        {"frame": 0, "object": 4, "mask": rle},
    )
    box, points, png, coded = read_prompts(str(path), frames)
    assert box.box == (10, 10, 30, 30)
    assert (points.frame, points.object_id) == (2, 256)
    assert points.points.tolist() == [[1, 2.5], [3, 4]]
    assert points.labels.tolist() == [1, 0]
    assert np.array_equal(png.mask, clip.masks(1)[0])
    assert coded.mask[:, 0].all()
    assert not coded.mask[:, 1:].any()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, "entry 0 is 7, expected a mapping"),
        ({**BOX, "obj": 1}, "has 'obj', expected frame, object, .*; did you mean 'object'"),
        ({**BOX, "frame": 1.5}, "frame is 1.5, expected a whole number"),
        ({**BOX, "object": -1}, "object is -1, expected a whole number"),
        ({"object": 1}, "frame is None"),
        ({**BOX, "frame": 8}, "frame 8 is not tracked, .* 0 to 7"),
        ({**BOX, "box": [1, 2, 3]}, "box is .*expected .x0, y0, x1, y1."),
        ({**BOX, "box": "all"}, "box is 'all'"),
        ({**BOX, "points": [1, 2]}, "points is .*expected"),
        ({**BOX, "labels": "yes"}, "labels is 'yes'"),
        ({**BOX, "mask": {"counts": []}}, "neither the path of a PNG nor an RLE"),
        ({**BOX, "mask": "none.png"}, r"none.png does not exist"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, frames, entry, message):
    with pytest.raises(UserError, match=message):
        read_prompts(str(write_json(tmp_path / "p.json", entry)), frames)


@pytest.mark.parametrize("text", ["{}", "[]", "[1", "null"])
def test_json_that_holds_no_list_is_refused(tmp_path, frames, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match=r"prompts=.*(must hold a list|cannot be read as JSON)"):
        read_prompts(str(tmp_path / "p.json"), frames)


def test_a_png_without_objects_or_that_is_none_is_refused(tmp_path, frames):
    Image.new("L", (83, 61)).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"empty.png is empty"):
        read_prompts(str(tmp_path / "empty.png"), frames)
    with pytest.raises(UserError, match=r"text.png cannot be read"):
        read_prompts(str(tmp_path / "text.png"), frames)


# frames


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [(None, range(8)), ("2:5", [2, 3, 4]), ("::3", [0, 3, 6]), ("6", [6]), ("5:", [5, 6, 7])],
)
def test_frames_are_chosen_as_python_does(clip, chosen, indices):
    frames = choose_frames(InMemory(clip.images), chosen)
    assert list(frames.indices) == list(indices)
    assert frames.names == [f"{i:05d}" for i in indices]


def test_a_file_that_is_neither_movie_nor_folder_is_refused(tmp_path):
    (tmp_path / "clip.txt").touch()
    with pytest.raises(UserError, match="is no movie"):
        open_source(str(tmp_path / "clip.txt"), 10**6)


def test_the_settings_of_the_program_compose():
    from hydra import compose, initialize_config_dir

    from core.config import CONFIG_DIR, register_schema

    register_schema("predict_schema", PredictConfig)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        assert isinstance(to_config(compose("predict", [])), PredictConfig)
