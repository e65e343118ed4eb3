"""What train.py leaves behind: curves, checkpoints, names and motion; of data on disk as well."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import TINY, png_files, run_here
from scenes import coco_content, make_video

from core.metrics.outcomes import FAILURES
from core.metrics.video import VideoMetrics
from core.visualization.drawing.canvas import Canvas

PICTURES = ["visualizations.enabled=true", "visualizations.panel_size=64"]
LOSSES = ("loss", "loss_mask", "loss_dice", "loss_iou", "loss_class")


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def rows(folder):
    """The rows of the metrics' CSV, in the order of logging, without what is empty."""
    with open(folder / "run" / "csv" / "metrics.csv") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def curve(folder, name):
    return [(int(row["step"]), row[name]) for row in rows(folder) if name in row]


def stored(folder):
    """What SwanLab's store lists of pictures: {file name: (step, caption)}."""
    found = {}
    for path in folder.glob("swanlog/run-*/logs/*/*.log"):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            if "more" in item:  # no scalar
                for name, more in zip(item["data"], item["more"], strict=True):
                    if more:  # a text has none
                        found[name] = (int(item["index"]), more["caption"])
    return found


@pytest.fixture(scope="module")
def run(patch, tmp_path_factory):
    """Four steps with a validation before them and after every second one."""
    folder = tmp_path_factory.mktemp("run")
    ended = run_here(
        patch, folder, *TINY, *PICTURES, "logger=[swanlab,csv]", "data.num_frames=3",
        "trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.validate_first=true",
        "trainer.log_every_n_steps=1", "visualizations.animation=true",
        "visualizations.max_frames=1", "visualizations.max_overhead=1",
    )  # fmt: skip
    assert ended == ""
    return folder


@pytest.mark.parametrize("name", [*LOSSES, "iou"])
def test_training_logs_its_losses_and_iou_at_every_step(run, name):
    values = curve(run, f"train/{name}")
    assert [step for step, _ in values] == [0, 1, 2, 3]
    assert all(math.isfinite(value) and value >= 0 for _, value in values)


@pytest.mark.parametrize("name", [*LOSSES, "iou", "J", "F", "J&F", "dice"])
def test_every_validation_logs_its_losses_and_scores(run, name):
    values = curve(run, f"val/{name}")
    assert [step for step, _ in values] == [0, 1, 3]
    assert all(math.isfinite(value) and value >= 0 for _, value in values)


@pytest.mark.parametrize("stage", ["train", "val"])
def test_the_loss_is_the_weighted_sum_of_its_parts(run, stage):
    weights = yaml.safe_load((run / "run" / "config.yaml").read_text())["loss"]
    row = next(row for row in rows(run) if f"{stage}/loss" in row)
    total = sum(weights[name] * row[f"{stage}/{name}"] for name in LOSSES[1:])
    assert row[f"{stage}/loss"] == pytest.approx(total, rel=1e-5)


def test_learning_rates_of_all_groups_are_logged_at_every_step(run):
    names = {name for row in rows(run) for name in row if name.startswith("lr-")}
    assert {name.removeprefix("lr-AdamW/").split("/")[0] for name in names} == {
        "image_encoder", "rest"
    }  # fmt: skip
    for name in names:
        rates = curve(run, name)
        assert [step for step, _ in rates] == [0, 1, 2, 3]
        assert all(rate > 0 for _, rate in rates)


def test_validate_first_measures_the_weights_that_training_starts_from(run):
    kinds = [stage for row in rows(run) for stage in ("train", "val") if f"{stage}/loss" in row]
    assert kinds[:2] == ["val", "train"]
    assert kinds.count("val") == 3
    tables = sorted(path.name for path in (run / "run" / "metrics").iterdir())
    assert tables == [f"val_step{step}{kind}.csv" for step in (0, 2, 4) for kind in ("", "_frames")]


def test_captions_name_the_clips_of_the_data_set(run):
    captions = [caption for name, (_, caption) in stored(run).items() if name.endswith(".png")]
    validated = [caption for caption in captions if caption.startswith("val")]
    assert len(validated) == 3
    assert all(" · synthetic_val_00000 · " in caption for caption in validated)
    assert any(" · synthetic_train_0" in caption for caption in captions)


def animations(folder):
    return sorted(folder.glob("swanlog/run-*/media/image/*.gif"))


def test_an_animation_of_every_validation_is_stored_with_all_frames(run):
    paths = animations(run)
    assert [stored(run)[path.name] for path in paths] == [
        (step, "synthetic_val_00000") for step in (0, 2, 4)
    ]
    for path in paths:
        with Image.open(path) as gif:
            assert gif.n_frames == 3
            frames = []
            for index in range(gif.n_frames):
                gif.seek(index)
                frames.append(np.asarray(gif.convert("RGB")))
        assert not (frames[0] == frames[1]).all()
        assert not (frames[1] == frames[2]).all()


def test_the_dashboard_lists_the_animations(run, dashboard):
    get = dashboard(run / "swanlog")
    experiment = json.loads(get("/project"))["data"]["experiments"][0]["id"]
    tag = json.loads(get(f"/experiment/{experiment}/tag/val%2Fanimation"))["data"]
    assert [int(item["index"]) for item in tag["list"]] == [0, 2, 4]
    names = [item["data"][0] for item in tag["list"]]
    assert names == [path.name for path in animations(run)]
    shown = get(f"/media/{names[0]}?tag=val%2Fanimation&experiment_id={experiment}")
    assert shown == animations(run)[0].read_bytes()


@pytest.fixture(scope="module")
def scripted(patch, tmp_path_factory):
    """A validation after every step, the second one the best, and patience for two."""
    folder = tmp_path_factory.mktemp("scripted")
    # The second one is what copying scores, measured once after the first validation.
    scores = iter([0.3, 0.1, 0.6, 0.5, 0.4, 0.9, 0.9])
    said = []
    with patch.context() as scores_patch:
        scores_patch.setattr("core.run.log.info", lambda text, *args: said.append(text % args))
        scores_patch.setattr(
            VideoMetrics, "compute", lambda own, *_: {"iou": next(scores)} if own.rows else {}
        )
        ended = run_here(
            patch, folder, *TINY, "logger=csv", "trainer.max_steps=6",
            "trainer.early_stopping_patience=2",
        )  # fmt: skip
    assert ended == ""
    (folder / "run" / "said.txt").write_text("\n".join(said))
    return folder / "run" / "checkpoints"


def test_the_best_checkpoint_is_the_one_of_the_best_value(scripted):
    assert sorted(path.name for path in scripted.iterdir()) == ["best-step2.ckpt", "last.ckpt"]
    best = torch.load(scripted / "best-step2.ckpt", weights_only=False)
    assert best["global_step"] == 2
    exported = torch.load(scripted.parent / "weights" / "best.pt", weights_only=True)["model"]
    for name, value in exported.items():
        assert torch.equal(best["state_dict"][f"model.{name}"], value)


def test_early_stopping_waits_for_as_many_validations_as_its_patience(scripted):
    assert torch.load(scripted / "last.ckpt", weights_only=False)["global_step"] == 4
    said = (scripted.parent / "said.txt").read_text()
    assert re.search(r"^ +stopped +early: it did not rise in 2 validations$", said, re.MULTILINE)


@pytest.fixture
def written(monkeypatch):
    """Every text that was written on a sheet."""
    texts, write = [], Canvas.write

    def remember(canvas, pieces, *args):
        texts.extend(text for _, _, text in pieces)
        return write(canvas, pieces, *args)

    monkeypatch.setattr(Canvas, "write", remember)
    return texts


def train_on_files(monkeypatch, folder, *data):
    ended = run_here(
        monkeypatch, folder, *TINY, *PICTURES, "logger=[swanlab,csv]", "data.num_workers=0",
        "trainer.log_every_n_steps=1", "data.val_clips_per_video=1", *data,
    )  # fmt: skip
    assert ended == ""
    captions = [caption for _, caption in stored(folder).values()]
    assert len(png_files(folder / "swanlog")) == len(captions) == 4
    return captions


def test_a_vos_folder_is_trained_on_and_drawn_with_its_names(monkeypatch, tmp_path, written):
    for name in ("cat", "dog"):
        make_video(tmp_path / "data", name, objects=((1, 2),) * 3)
    captions = train_on_files(
        monkeypatch, tmp_path, "data=vos_folder", f"data.root={tmp_path / 'data'}"
    )
    assert any(caption.startswith("train · step 0 · cat · ") for caption in captions)
    assert any(caption.startswith("val · step 1 · dog · ") for caption in captions)
    ((_, iou),) = curve(tmp_path, "val/iou")
    assert 0 <= iou <= 1
    assert not [name for row in rows(tmp_path) for name in row if name.startswith("val/iou/")]


def test_coco_video_is_trained_on_and_drawn_with_its_categories(monkeypatch, tmp_path, written):
    content = coco_content(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(content))
    captions = train_on_files(
        monkeypatch, tmp_path, "data=coco_video",
        f"data.train_annotations={tmp_path / 'train.json'}",
        f"data.image_root={tmp_path / 'frames'}",
    )  # fmt: skip
    assert any(caption.startswith("train · step 0 · x · ") for caption in captions)
    assert any(caption.startswith("val · step 1 · y · ") for caption in captions)
    # `clip` comes after the frame with the prompts and `bag` never: nothing is measured of them.
    (step, iou), *_ = curve(tmp_path, "val/iou")
    assert curve(tmp_path, "val/iou/hook") == [(step, pytest.approx(iou))]
    assert len(curve(tmp_path, "val/dice/hook")) == 1
    scored = {name for row in rows(tmp_path) for name in row if name.count("/") > 1}
    of_categories = {name for name in scored if name.startswith("val/")}
    failures = {name for name in of_categories if name.startswith("val/failures/")}
    own = ("iou", "dice", "identity_switches", "frames_until_failure")
    assert of_categories - failures == {f"val/{name}/hook" for name in own}
    assert {name for name in failures if name.count("/") > 2} == {
        f"val/failures/{kind}/hook" for kind in FAILURES
    }
    assert any("hook" in text for text in written)
    assert any("clip" in text for text in written)
