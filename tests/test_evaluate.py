"""``python -m core.evaluate``: what it writes, how it goes on, and what it says of mistakes."""

import csv
import dataclasses
import errno
import json
import os
import re
import shutil
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import cv2
import numpy as np
import pytest
import torch
from border_distances import border_distances
from omegaconf import OmegaConf
from PIL import Image
from pycocotools import mask as mask_utils
from random_weights import IMAGE_SIZE, write_random_weights
from training.utils.data_utils import collate_fn
from videos import Disc, InMemory, draw, write_labels, write_vos

import core.data.split
from core.checks import UserError
from core.config import Config, DataConfig, ModelConfig, to_config
from core.data.datapoint import normalise, to_datapoint
from core.evaluate.__main__ import main
from core.evaluate.settings import EvaluateConfig
from core.evaluate.videos import find_videos, first_masks, path_of, prompts_of
from core.model.build import build_model
from core.model.loading import load_weights
from core.tracking.clicks import segment
from core.tracking.masks import davis_palette, fits_palette, write_masks
from core.tracking.tracker import track
from core.tracking.weights import build_predictor, find
from core.visualization.drawing.sheet import render_sheet

SIZE = (61, 83)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two videos: one annotated on every frame, one on every second with an object that is late."""
    root = tmp_path_factory.mktemp("vos")
    write_vos(root, "early", draw(6, SIZE, [Disc(1, (20, 20), 9)]))
    late = draw(9, SIZE, [Disc(1, (20, 20), 9), Disc(3, (50, 40), 9, first=3)])
    write_vos(root, "late", late, every=2)
    (root / "val.txt").write_text("early\nlate\n")
    (root / "train.txt").write_text("early\n")
    return root


@pytest.fixture
def evaluate(weights, data, tmp_path, capsys):
    """Run the program; return its status and what it said."""

    def run(*overrides, out=tmp_path / "out"):
        lists = ["data.val_list=val.txt", "data.train_list=train.txt"]
        arguments = [f"weights={weights}", f"out={out}", "data=vos_folder", f"data.root={data}"]
        status = main([*arguments, *lists, "trainer.accelerator=cpu", *overrides])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def shown_by(page):
    """Return what the scripts of a page show."""
    found = re.search(r'<script type="application/json" id="book">(.*?)</script>', page.read_text())
    return json.loads(found[1])


def test_masks_and_tables_of_every_video_are_written(evaluate, tmp_path, data):
    status, said = evaluate("protocol=all")
    assert status == 0, said
    out = tmp_path / "out"
    masks = sorted(path.relative_to(out / "masks") for path in out.rglob("masks/*/*.png"))
    assert masks == [Path("early") / f"{t:05d}.png" for t in range(6)] + [
        Path("late") / f"{t:05d}.png" for t in range(9)
    ]
    with Image.open(out / "masks" / "late" / "00002.png") as image:
        assert (image.mode, image.size) == ("P", (83, 61))
        assert set(np.unique(np.asarray(image))) <= {0, 1}  # object 3 was not prompted yet
    objects = rows(out / "objects_sav.csv")
    assert [(row["video"], row["object"], row["first_frame"]) for row in objects] == [
        ("early", "1", "0"),
        ("late", "1", "0"),
        ("late", "3", "4"),
    ]
    davis = [(row["video"], row["object"]) for row in rows(out / "objects.csv")]
    assert davis == [("early", "1"), ("late", "1")]
    frames = rows(out / "frames.csv")
    assert len([row for row in frames if row["video"] == "late"]) == 2 * 5
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["protocol"], summary["objects"], summary["objects_tracked"]) == ("davis", 2, 3)
    assert "davis counts 2 objects, 3 were tracked" in summary["notes"]
    assert summary["prompt"] == "mask"


def test_scores_are_those_of_the_masks_that_were_written(evaluate, tmp_path, data):
    evaluate("videos=[early]")
    first = {}
    for row in rows(tmp_path / "out" / "frames.csv"):
        name = f"{int(row['frame']):05d}.png"
        pred, gt = (
            np.asarray(Image.open(folder / "early" / name)) == 1
            for folder in (tmp_path / "out" / "masks", data / "Annotations")
        )
        assert float(row["J"]) == pytest.approx((pred & gt).sum() / (pred | gt).sum(), abs=1e-6)
        first.setdefault(row["object"], float(row["J"]))
    assert first["1"] > 0.8  # the prompt itself, through the model's resolution


def test_a_second_start_goes_on_with_the_videos_that_are_missing(evaluate, tmp_path):
    evaluate()
    out = tmp_path / "out"
    before = (out / "objects.csv").read_text()
    kept = (out / "scores" / "early.npz").stat().st_mtime_ns
    (out / "scores" / "late.npz").unlink()
    status, said = evaluate()
    assert status == 0, said
    assert "1 of 2 videos is from an earlier start" in said
    assert (out / "scores" / "early.npz").stat().st_mtime_ns == kept
    assert (out / "objects.csv").read_text() == before


def test_a_video_whose_masks_were_corrected_is_tracked_and_scored_again(evaluate, tmp_path, data):
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, root)
    overrides = (f"data.root={root}", "films=none", "prompt=bbox")
    status, said = evaluate(*overrides)
    assert status == 0, said
    assert "earlier start" not in said
    before = {path.stem: path.read_bytes() for path in (out / "scores").iterdir()}
    corrected = draw(9, SIZE, [Disc(1, (20, 20), 6)])  # smaller, and without the second object
    for t in range(0, 9, 2):
        write_labels(root / "Annotations" / "late" / f"{t:05d}.png", corrected.labels[t])
    left_over = out / "masks" / "late" / "00099.png"
    left_over.touch()
    status, said = evaluate(*overrides)
    assert status == 0, said
    assert "1 of 2 videos is from an earlier start" in said
    assert (out / "scores" / "early.npz").read_bytes() == before["early"]
    assert not left_over.exists()
    after = rows(out / "frames.csv")
    evaluate(*overrides, out=tmp_path / "fresh")
    assert rows(tmp_path / "fresh" / "frames.csv") == after
    assert {row["object"] for row in after if row["video"] == "late"} == {"1"}


def test_what_an_earlier_version_measured_is_measured_again(evaluate, tmp_path):
    evaluate("videos=[early]", "films=none")
    path = tmp_path / "out" / "scores" / "early.npz"
    with np.load(path) as stored:
        np.savez(path, **{name: stored[name] for name in stored.files if name != "stamp"})
    status, said = evaluate("videos=[early]", "films=none")
    assert status == 0, said
    assert "earlier start" not in said


def test_results_of_other_settings_are_replaced_only_when_asked_to(evaluate, weights, tmp_path):
    out, chosen = tmp_path / "out", ("videos=[early]", "films=none")
    evaluate(*chosen)
    (out / "mine.txt").write_text("keep")
    (out / "mine.csv").write_text("keep")
    status, said = evaluate(*chosen, "prompt=bbox")
    assert status == 1
    assert "choose another folder" in said
    assert "Traceback" not in said
    status, said = evaluate(*chosen, "prompt=bbox", "overwrite=true", "model=auto")
    assert status == 0, said
    assert f"weights     {weights}\n" in said
    assert json.loads((out / "summary.json").read_text())["prompt"] == "bbox"
    assert (out / "mine.txt").read_text() == (out / "mine.csv").read_text() == "keep"
    status, said = evaluate(*chosen, "prompt=bbox")
    assert "1 of 1 video is from an earlier start" in said
    left_over = out / "films" / "late.mp4"
    left_over.parent.mkdir()
    left_over.touch()
    status, said = evaluate(*chosen, "prompt=bbox", "overwrite=true")
    assert status == 0, said
    assert "earlier start" not in said
    assert not left_over.exists()


def test_a_video_that_cannot_be_read_leaves_the_others_scored(evaluate, tmp_path, data):
    broken = tmp_path / "broken"
    for kind in ("JPEGImages", "Annotations"):
        for video in ("early", "late"):
            (broken / kind / video).mkdir(parents=True)
            for path in (data / kind / video).iterdir():
                (broken / kind / video / path.name).write_bytes(path.read_bytes())
    (broken / "JPEGImages" / "late" / "00003.png").write_bytes(b"no image")
    for name in ("val.txt", "train.txt"):
        (broken / name).write_text((data / name).read_text())
    status, said = evaluate(f"data.root={broken}")
    assert status == 0, said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["not_scored"]) == ["late"]
    assert "00003.png" in summary["not_scored"]["late"]
    assert summary["videos"] == 1
    status, said = evaluate(f"data.root={broken}", "videos=[late]", out=tmp_path / "other")
    assert status == 1
    assert "left out    late" in said


def test_a_video_that_memory_does_not_suffice_for_leaves_the_others_scored(
    evaluate, tmp_path, monkeypatch
):
    computed, were_let_go = [], []

    def run_out_in_a_longer_one(predictor, frames, prompts):
        if len(frames) > 6:
            memory = torch.zeros(1)
            computed.append(weakref.ref(memory))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return track(predictor, frames, prompts)

    def free_memory():
        were_let_go.extend(tensor() is None for tensor in computed)

    monkeypatch.setattr("core.evaluate.program.track", run_out_in_a_longer_one)
    monkeypatch.setattr("core.evaluate.program.free_memory", free_memory)
    status, said = evaluate("model.image_size=96")
    assert status == 0, said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    why = (
        "out of memory, try trainer.precision=bf16-mixed (rounded activations)"
        " or model.image_size=64 (coarser masks)"
    )
    assert summary["not_scored"] == {"late": why}
    assert f"video late is left out: {why}" in said
    assert {row["video"] for row in rows(tmp_path / "out" / "objects.csv")} == {"early"}
    assert were_let_go == [True]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_does_not_suffice_for_the_model_ends_in_one_sentence(
    evaluate, monkeypatch, error
):
    monkeypatch.setattr("core.evaluate.program.build_predictor", Mock(side_effect=error))
    status, said = evaluate("trainer.precision=bf16-mixed")
    assert status == 1
    assert said == "error: out of memory\n"  # 64 px and bf16 are as small as it gets


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["weights=null"], "weights is missing"),
        (["weights=nowhere.pt"], "weights=nowhere.pt does not exist"),
        (["videos=[erly]"], "has no erly, but early, late; did you mean 'early'"),
        (["model=sam2.1_hiera_tiny"], "use model=tiny"),
        (["protocol=davos"], "did you mean 'davis'"),
        (["max_frames=1"], "max_frames must be null or at least 2"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu is not available"),
        (["trainer.devices=[0,1]"], "where whole videos are tracked: they take one device"),
        (["data=synthetic", "split=train"], "expected split=val"),
    ],
)
def test_mistakes_end_in_one_sentence(evaluate, tmp_path, overrides, message):
    status, said = evaluate(*overrides)
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights_is_refused(evaluate, tmp_path):
    (tmp_path / "empty").mkdir()
    status, said = evaluate(f"weights={tmp_path / 'empty'}")
    assert status == 1
    assert "has no weights" in said


def test_settings_of_the_run_come_first_and_the_command_line_last(weights, data, tmp_path, capsys):
    run = tmp_path / "run with = and ,"
    (run / "weights").mkdir(parents=True)
    for suffix in (".pt", ".yaml"):
        content = weights.with_suffix(suffix).read_bytes()
        (run / "weights" / f"best{suffix}").write_bytes(content)
    config = Config(model=ModelConfig(image_size=64, prompt_type="bbox"), seed=5)
    config.data.source, config.data.root = "vos_folder", str(data)
    config.data.train_list, config.data.val_list = "train.txt", "val.txt"
    OmegaConf.save(OmegaConf.structured(config), run / "config.yaml")
    status = main([f"weights={run}", "data.val_list=train.txt", "trainer.accelerator=cpu"])
    assert status == 0, capsys.readouterr()
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert (summary["videos"], summary["prompt"]) == (1, "bbox")


def test_other_prompts_than_the_trained_ones_are_warned_of(weights, tmp_path, caplog):
    from core.evaluate.program import evaluate as program
    from core.model.known_weights import Stored
    from core.tracking.weights import Weights

    config = EvaluateConfig(prompt="point")
    config.data.val_num_frames, config.data.synthetic.num_val_clips = 3, 1
    config.model = ModelConfig(image_size=64)
    config.trainer.accelerator = "cpu"
    stored = Stored(weights, dataclasses.asdict(Config(model=config.model)))
    trained = Weights(weights, config.model, stored)
    program(config, trained, weights.parent / "points")
    assert "trained with mask prompts alone" in caplog.text

    write_vos(tmp_path, "image", draw(1, SIZE, [Disc(1, (20, 20), 9)]))
    config.prompt, config.split = "mask", "all"  # which images cannot be prompted with
    config.data.source, config.data.root = "vos_folder", str(tmp_path)
    notes = program(config, trained, tmp_path / "images").summary["notes"]
    assert "images: prompt=point, but the weights were trained with mask" in " ".join(notes)


# videos and prompts


def of_source(**data):
    config = EvaluateConfig()
    for name, value in data.items():
        setattr(config.data, name, value)
    return find_videos(config)


def test_synthetic_clips_are_those_of_validation():
    config = EvaluateConfig()
    config.data.val_num_frames, config.data.synthetic.num_val_clips = 5, 2
    videos = find_videos(config)
    assert videos.names == ["synthetic_val_00000", "synthetic_val_00001"]
    video = videos.open(videos.names[1])
    assert len(video.frames) == 5
    dataset = core.data.SyntheticDataset(config.data, 128, config.seed, training=False)
    assert np.array_equal(video.masks(3)[1], dataset[1].frames[3].objects[0].segment.numpy())


def test_a_void_value_is_no_object(tmp_path):
    video = draw(3, SIZE, [Disc(1, (20, 20), 9), Disc(255, (60, 40), 5)])
    write_vos(tmp_path, "clip", video)
    found = of_source(source="vos_folder", root=str(tmp_path)).open("clip")
    assert list(first_masks(found)) == [1]


@pytest.mark.parametrize("ids", [(255,), (85, 170, 255), (127, 255), (255, 300)])
def test_the_highest_grey_is_an_object_where_it_is_no_void(tmp_path, ids):
    video = draw(3, SIZE, [Disc(key, (20 + 12 * i, 20), 5) for i, key in enumerate(ids)])
    write_vos(tmp_path, "clip", video)
    found = of_source(source="vos_folder", root=str(tmp_path)).open("clip")
    assert list(first_masks(found)) == list(ids)


def test_objects_in_folders_keep_the_numbers_of_their_folders(tmp_path):
    video = draw(3, SIZE, [Disc(1, (20, 20), 9)])
    write_vos(tmp_path, "clip", video)
    for path in sorted((tmp_path / "Annotations" / "clip").glob("*.png")):
        folder = tmp_path / "Annotations" / "clip" / "004"
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    found = of_source(source="png_folders", root=str(tmp_path)).open("clip")
    assert list(first_masks(found)) == [4]


def rle(mask):
    coded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


@pytest.mark.parametrize("told", [{"fps": 6}, {"video_id": "sav_001", "video_frame_count": 9.0}])
def test_frames_of_sav_between_the_labelled_ones_are_tracked_too(tmp_path, told):
    video = draw(9, SIZE, [Disc(1, (20, 20), 9)])
    write_vos(tmp_path, "sav_001", video)
    masklet = [[rle(video.masks(1)[t]), rle(video.masks(1)[0] & False)] for t in (0, 4, 8)]
    (tmp_path / "sav_001_manual.json").write_text(json.dumps({**told, "masklet": masklet}))
    source = {"source": "sav", "root": str(tmp_path), "annotation_folder": "."}
    found = of_source(**source).open("sav_001")
    assert (len(found.frames), found.annotated) == (9, [0, 4, 8])
    assert list(found.masks(4)) == [0, 1]  # masklets count from 0
    assert np.array_equal(found.masks(4)[0], video.masks(1)[4])
    assert list(first_masks(found)) == [0]


def test_category_layouts_have_names_and_frames_of_unknown_masks(tmp_path):
    video = draw(3, SIZE, [Disc(1, (20, 20), 9)])
    write_vos(tmp_path, "clip", video)
    images = [
        {"id": t, "file_name": f"{t:05d}.png", "video_id": 4, "order_in_video": t} for t in range(3)
    ]
    annotations = [
        {"image_id": 0, "category_id": 9, "segmentation": rle(video.masks(1)[0])},
        {"image_id": 1, "category_id": 9, "segmentation": None},
    ]
    categories = [{"id": 5, "name": "hook"}, {"id": 9, "name": "knife"}]
    path = tmp_path / "coco.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    images = str(tmp_path / "JPEGImages" / "clip")
    found = of_source(source="coco_video", train_annotations=str(path), image_root=images).open("4")
    assert (len(found.frames), found.annotated) == (3, [0, 2])
    assert list(first_masks(found)) == [1]
    assert found.object_names[1] == "knife"


def write_coco(path, images, masks):
    """Write tracks of one object, or images with one object: its mask [H, W] for each file."""
    annotations = [
        {"id": k, "image_id": k, "category_id": 9, "track_id": 1, "segmentation": rle(mask)}
        for k, mask in enumerate(masks)
    ]
    content = {
        "images": [{"id": k, "file_name": str(name)} for k, name in enumerate(images)],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "knife"}],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bear", "bear"),
        ("sav_000/sav_000123", "sav_000/sav_000123"),
        ("shot 1.5", "shot 1.5"),
        ("/data/clips/bear", "data/clips/bear"),
        ("//server/share/bear", "bear"),
        ("C:\\clips\\bear.jpg", "clips/bear.jpg"),
        ("C:/clips/bear", "clips/bear"),
        ("../../bear", "bear"),
        ("a/../../b", "a/b"),
        ("./bear/", "bear"),
        ("..", "video"),
        ("/", "video"),
    ],
)
def test_a_name_becomes_a_path_that_stays_in_its_folder(name, path):
    assert path_of(name) == path


def test_names_that_become_one_path_stay_apart(tmp_path):
    video = draw(3, SIZE, [Disc(1, (20, 20), 9)])
    inside = str(tmp_path).lstrip("/")
    images = []
    for folder in (tmp_path, tmp_path / "json" / inside, tmp_path / "json" / "a"):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(video.images[0]).save(folder / "x.png")
    images = [f"{tmp_path}/x.png", f"{inside}/x.png", "a/x.png"]
    path = write_coco(tmp_path / "json" / "coco.json", images, [video.masks(1)[0]] * 3)
    data = {"source": "coco_video", "train_annotations": str(path), "objects": "instances"}
    config = EvaluateConfig(data=DataConfig(**data), split="all")
    found = find_videos(config)
    # in the order of the names, of which the absolute one comes first
    assert found.names == [inside, "a", f"{inside}_2"]
    opened = [found.open(name).frames.frames[0].image_path for name in found.names]
    assert opened == [f"{tmp_path}/x.png", *(f"{tmp_path}/json/{name}" for name in images[:0:-1])]
    chosen = find_videos(dataclasses.replace(config, videos=[str(tmp_path), "a", inside]))
    assert chosen.names == [inside, "a"]


@pytest.mark.parametrize("source", ["vos_folder", "png_folders", "coco_images"])
def test_the_stamp_of_a_video_tells_that_its_annotations_changed(tmp_path, source):
    video = draw(1, SIZE, [Disc(1, (20, 20), 9)])
    write_vos(tmp_path, "clip", video)
    file = tmp_path / "Annotations" / "clip" / "00000.png"
    data = {"source": source, "root": str(tmp_path)}
    if source == "png_folders":
        folder = file.parent / "001"
        folder.mkdir()
        file = file.rename(folder / file.name)
    if source == "coco_images":
        file = write_coco(tmp_path / "a.json", ["JPEGImages/clip/00000.png"], [video.masks(1)[0]])
        data = {"source": source, "train_annotations": str(file)}

    def stamp():
        (name,) = (videos := of_source(**data)).names
        return videos.stamp(name)

    before = stamp()
    for name in (".DS_Store", "Thumbs.db"):  # which looking at a folder leaves there
        (file.parent / name).touch()
    assert stamp() == before
    content = file.read_bytes()
    file.write_bytes(content)
    os.utime(file, (1, 1))
    later = stamp()
    assert later != before
    file.write_bytes(content + b" ")
    os.utime(file, (1, 1))
    assert stamp() not in (before, later)


@pytest.mark.parametrize("source", ["coco_video", "coco_images"])
def test_results_of_videos_with_absolute_names_lie_in_out_alone(evaluate, tmp_path, source):
    pytest.importorskip("av")
    video, out = draw(3, SIZE, [Disc(1, (20, 20), 9)]), tmp_path / "out"
    for name in ("one", "two"):
        write_vos(tmp_path, name, video)
    absolute = sorted((tmp_path / "JPEGImages" / "one").iterdir())
    images = [*absolute, *(f"../JPEGImages/two/{path.name}" for path in absolute)]
    path = write_coco(tmp_path / "json" / "coco.json", images, [*video.masks(1), *video.masks(1)])
    there = set(tmp_path.rglob("*"))
    lists = ("data.val_list=null", "data.train_list=null", "data.root=null", "split=all")
    layout = ["data.objects=instances"] if source == "coco_video" else []
    status, said = evaluate(f"data={source}", f"data.train_annotations={path}", *lists, *layout)
    assert status == 0, said
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)} == there
    names = {str(path).lstrip("/") for path in absolute}
    names |= {f"JPEGImages/two/{path.name}" for path in absolute}
    if source == "coco_video":
        names = {name.rpartition("/")[0] for name in names}
        films = {video["film"] for video in shown_by(out / "evaluation.html")["videos"]}
        assert films == {f"films/{name}.mp4" for name in names}
    assert json.loads((out / "summary.json").read_text())["not_scored"] == {}
    assert {row["video"] for row in rows(out / "frames.csv")} == names
    for name in names:
        assert (out / "scores" / f"{name}.npz").is_file()
        assert list((out / "masks" / name / "001").glob("*.png"))


@pytest.fixture
def numbered_alike(tmp_path):
    """COCO-video files of training and of validation, whose one video is 4 in both."""
    write_vos(tmp_path, "clip", draw(3, SIZE, [Disc(1, (20, 20), 9)]))
    fields = {"source": "coco_video", "image_root": str(tmp_path / "JPEGImages" / "clip")}
    for part, radius in (("train", 9), ("val", 5)):
        masks = draw(3, SIZE, [Disc(1, (20, 20), radius)]).masks(1)
        images = [
            {"id": t, "file_name": f"{t:05d}.png", "video_id": 4, "order_in_video": t}
            for t in range(3)
        ]
        annotations = [
            {"image_id": t, "category_id": 9, "segmentation": rle(masks[t])} for t in range(3)
        ]
        categories = [{"id": 9, "name": "knife"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = tmp_path / f"{part}.json"
        path.write_text(json.dumps(content))
        fields[f"{part}_annotations"] = str(path)
    return EvaluateConfig(data=DataConfig(**fields))


def test_videos_of_two_files_that_are_numbered_alike_are_all_found(numbered_alike):
    found = {}
    for split in ("all", "train", "val"):
        videos = find_videos(dataclasses.replace(numbered_alike, split=split))
        found[split] = {name: videos.open(name).masks(0)[0].sum() for name in videos.names}
    all_of_them = found["all"]
    assert list(all_of_them) == ["train/4", "4"]
    assert all_of_them["train/4"] > all_of_them["4"] > 0
    # results of one split after the other may go to one folder
    assert {**found["train"], **found["val"]} == all_of_them


def test_prompts_stand_where_objects_first_appear():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:19] = True
    first = {7: (3, mask)}
    (given,) = prompts_of(first, "mask")
    assert (given.frame, given.object_id) == (3, 7)
    assert np.array_equal(given.mask, mask)
    (given,) = prompts_of(first, "bbox")
    assert given.box == (10, 4, 18, 8)
    (given,) = prompts_of(first, "point")
    assert given.points.shape == (1, 2)
    x, y = given.points[0]
    assert (y, x) == (6, pytest.approx(14, abs=3))
    assert given.labels.tolist() == [1]


# masks


@pytest.mark.parametrize(("object_id", "fits"), [(0, False), (1, True), (254, True), (255, False)])
def test_ids_that_a_png_cannot_hold_get_folders(object_id, fits):
    assert fits_palette([object_id], overlapping=False) is fits
    assert not fits_palette([object_id], overlapping=True)


@pytest.mark.parametrize("object_id", [255, 256, 2001])
def test_folders_of_objects_hold_zeros_and_ones(tmp_path, object_id):
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    write_masks(tmp_path, "00007", {object_id: mask}, [3, object_id], True, (4, 5))
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"{object_id}" / "00007.png")), mask)
    assert not np.asarray(Image.open(tmp_path / "003" / "00007.png")).any()


def test_one_png_holds_ids_in_the_palette_of_davis(tmp_path):
    masks = {key: np.zeros((4, 5), bool) for key in (1, 2, 254)}
    masks[1][0, 0] = masks[2][1, 1] = masks[254][2, 2] = True
    write_masks(tmp_path, "00000", masks, list(masks), False, (4, 5))
    image = Image.open(tmp_path / "00000.png")
    values = np.asarray(image)
    assert (values[0, 0], values[1, 1], values[2, 2], values[3, 3]) == (1, 2, 254, 0)
    assert np.asarray(image.convert("RGB"))[1, 1].tolist() == [0, 128, 0]
    assert list(davis_palette()[3:6]) == [128, 0, 0]


def test_the_settings_of_the_program_compose():
    from hydra import compose, initialize_config_dir

    from core.config import CONFIG_DIR, register_schema

    register_schema("evaluate_schema", EvaluateConfig)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = to_config(compose("evaluate", ["data.num_frames=3"]))
    assert isinstance(config, EvaluateConfig)
    assert (config.data.num_frames, config.split) == (3, "val")
    with pytest.raises(UserError, match="split must be one of val, train, all"):
        EvaluateConfig(split="test")


# pictures, films, comparison


def test_sheets_films_and_the_page_show_the_worst_videos(evaluate, tmp_path, monkeypatch):
    pytest.importorskip("av")
    clips = []
    monkeypatch.setattr(
        "core.evaluate.pictures.render_sheet", lambda clip: clips.append(clip) or render_sheet(clip)
    )
    status, said = evaluate("films=1")
    assert status == 0, said
    for clip in clips:
        hit, missed, false = clip.errors.swapaxes(0, 1)
        assert np.array_equal(hit | missed, clip.gt.masks.any(1))
        assert np.array_equal(hit | false, clip.pred.masks.any(1))
    out = tmp_path / "out"
    means = {}
    for row in rows(out / "objects.csv"):
        means.setdefault(row["video"], []).append(float(row["J&F"]))
    worst = min(means, key=lambda name: np.mean(means[name]))
    assert [path.name for path in (out / "films").iterdir()] == [f"{worst}.mp4"]
    assert {path.stem for path in (out / "sheets").iterdir()} == set(means)
    shown = shown_by(out / "evaluation.html")["videos"]
    assert [video["name"] for video in shown] == sorted(
        means, key=lambda name: np.mean(means[name])
    )
    assert [video["film"] for video in shown] == [f"films/{worst}.mp4", *[None] * (len(means) - 1)]
    assert all(video["src"].startswith("data:image/png;base64,") for video in shown)


def test_a_full_disk_ends_the_films_in_one_sentence(evaluate, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    opened = []

    def open_while_there_is_room(name, *arguments, **options):
        opened.append(name)
        if len(opened) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        return av.open(name, *arguments, **options)

    writer = SimpleNamespace(
        open=open_while_there_is_room, FFmpegError=av.FFmpegError, VideoFrame=av.VideoFrame
    )
    monkeypatch.setattr("core.tracking.film.import_av", lambda: writer)
    status, said = evaluate("films=2")
    assert status == 0, said
    assert [line for line in said.splitlines() if "No space left" in line] == [
        f"no further film: [Errno 28] No space left on device: '{opened[1]}'"
    ]
    out = tmp_path / "out"
    assert [str(path) for path in (out / "films").iterdir()] == opened[:1]
    assert len(rows(out / "objects.csv")) == 2
    shown = shown_by(out / "evaluation.html")["videos"]
    assert [video["film"] is None for video in shown] == [False, True]


def test_weights_are_compared_object_by_object(evaluate, tmp_path, weights):
    content = torch.load(weights, weights_only=True)
    bias = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    content["model"][bias].fill_(-10)  # this one never finds anything
    other = tmp_path / "blind.pt"
    torch.save(content, other)
    other.with_suffix(".yaml").write_bytes(weights.with_suffix(".yaml").read_bytes())
    status, said = evaluate(f"compare={other}", "films=none", "videos=[early]")
    assert status == 0, said
    (row,) = rows(tmp_path / "out" / "compare.csv")
    assert float(row["J&F_compared"]) == 0
    gain = float(row["J&F"])
    assert float(row["gain"]) == pytest.approx(gain)
    assert f"J&F {gain:+.4f} against {other}" in said
    assert (tmp_path / "out" / "sheets" / "changes.png").is_file() is (gain != 0)
    assert not (tmp_path / "out" / "films").exists()
    status, said = evaluate(f"compare={other}", "films=none", "videos=[early]")
    assert "note        1 of 1 video is from an earlier start" in said
    assert f"note        {other}: 1 of 1 video is from an earlier start" in said


def test_training_is_compared_with_its_start_at_its_own_image_size(weights, data, tmp_path, capsys):
    content = torch.load(weights, weights_only=True)
    for name, size in (("start.pt", 128), ("run/weights/best.pt", 64)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({**content, "image_size": size}, tmp_path / name)
    start = str(tmp_path / "start.pt")
    config = Config(model=ModelConfig(image_size=64, checkpoint_path=start))
    config.data.source, config.data.root = "vos_folder", str(data)
    config.data.train_list, config.data.val_list = "train.txt", "val.txt"
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "run" / "config.yaml")

    def compared_with(named):
        out = tmp_path / f"against {Path(named).stem}"
        arguments = [f"weights={tmp_path / 'run'}", f"out={out}", f"compare={named}"]
        arguments += ["trainer.accelerator=cpu", "videos=[early]", "films=none"]
        assert main(arguments) == 0, capsys.readouterr()
        summaries = [out / "summary.json", out / "compare" / "summary.json"]
        one, other = (json.loads(path.read_text()) for path in summaries)
        assert one["image_size"] == 64
        return other["image_size"], " ".join(one["notes"])

    size, notes = compared_with("released")
    assert size == 64
    assert "px" not in notes
    size, notes = compared_with(start)
    assert size == 128
    assert f"64 px for these weights, but 128 px for {start}" in notes


def test_released_weights_that_nobody_knows_are_asked_for(evaluate):
    status, said = evaluate("compare=released")
    assert status == 1
    assert "started from no released weights" in said


def test_clicks_do_not_depend_on_where_masks_lie_in_memory(weights, monkeypatch):
    inside = []

    def measured(truth, found):
        inside.append(border_distances())
        return torch.tensor([[[20.0, 20.0]]]), torch.tensor([[1]])

    monkeypatch.setattr("sam2.modeling.sam2_utils.sample_one_point_from_error_center", measured)
    video, ipp = draw(1, (IMAGE_SIZE, IMAGE_SIZE), [Disc(1, (20, 20), 9)]), cv2.ipp.useIPP()
    mask = video.masks(1)[0]
    predictor = build_predictor(find(str(weights), ModelConfig()), torch.device("cpu"))
    prompts = prompts_of({1: (0, mask)}, "point")
    segment(predictor, InMemory(video.images), prompts, {1: mask}, 2)
    assert [len(found) for found in inside] == [1, 1, 1]  # the prompt and two corrections
    assert cv2.ipp.useIPP() == ipp


@pytest.mark.parametrize("kind", ["point", "bbox"])
def test_images_are_prompted_and_corrected_as_in_validation(weights, kind):
    """At the model's own size, where nothing is resized."""
    video = draw(1, (IMAGE_SIZE, IMAGE_SIZE), [Disc(1, (20, 20), 9), Disc(4, (40, 45), 12)])
    config = ModelConfig(image_size=IMAGE_SIZE, prompt_type=kind, num_correction_points=2)
    model = build_model(config).eval()
    load_weights(model, weights)
    masks = np.stack([video.masks(key) for key in video.ids], 1)
    datapoint = to_datapoint(video.images, masks, video.ids, [0], 0, (IMAGE_SIZE, IMAGE_SIZE))
    from sam2.modeling.sam2_utils import sample_box_points

    exact = partial(sample_box_points, noise=0)  # official validation moves the sides of boxes
    with torch.no_grad(), patch("training.model.sam2.sample_box_points", exact):
        batch = collate_fn([datapoint], dict_key="all")
        batch.img_batch = normalise(batch.img_batch)
        (outputs,) = model(batch)
    expected = outputs["pred_masks_high_res"][:, 0]

    first = {key: (0, video.masks(key)[0]) for key in video.ids}
    predictor = build_predictor(find(str(weights), config), torch.device("cpu"))
    masks = {key: mask for key, (_, mask) in first.items()}
    found = segment(predictor, InMemory(video.images), prompts_of(first, kind), masks, 2)
    assert torch.allclose(found.logits, expected, atol=1e-4)


def test_images_count_for_no_video_protocol(evaluate, tmp_path):
    root, overrides = tmp_path / "images", ("split=all", "data.val_list=null")
    for k in range(2):
        write_vos(root, f"image{k}", draw(1, SIZE, [Disc(1, (20, 20), 9), Disc(3, (50, 40), 9)]))
    overrides = (f"data.root={root}", *overrides, "data.train_list=null", "protocol=lvos")
    status, said = evaluate(*overrides, out=tmp_path / "images_out")
    assert status == 0, said
    assert "protocol    images: 4 objects in 2 videos" in said
    assert "each object got a click and 7 correction clicks" in said
    summary = json.loads((tmp_path / "images_out" / "summary.json").read_text())
    assert list(summary["protocols"]) == ["images"]
    assert not (tmp_path / "images_out" / "films").exists()

    write_vos(root, "video", draw(4, SIZE, [Disc(1, (20, 20), 9)]))
    status, said = evaluate(*overrides[:-1], "films=none", out=tmp_path / "mixed_out")
    assert status == 0, said
    assert "protocol    davis: 1 object in 1 video" in said
    assert [row["video"] for row in rows(tmp_path / "mixed_out" / "objects.csv")] == ["video"]
    of_images = rows(tmp_path / "mixed_out" / "objects_images.csv")
    assert of_images == rows(tmp_path / "images_out" / "objects.csv")
