"""``python -m core.data``: what it counts, writes and refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config import Config, DataConfig, ModelConfig, SyntheticConfig
from core.data import VideoDataModule
from core.data.check import check_data, check_split, main
from core.visualization.drawing.canvas import MARGIN


def make_folder(root) -> DataConfig:
    """Two videos of four frames; the last frame of each is empty."""
    for name in "ab":
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / name).mkdir(parents=True)
        for t in range(4):
            labels = np.zeros((20, 30), np.uint8)
            if t < 3:
                labels[4:12, 4:12], labels[4:12, 16:24] = 1, 2
            Image.fromarray(labels).save(root / "Annotations" / name / f"{t:05d}.png")
            frame = Image.new("RGB", (30, 20), (40 * t, 90, 90))
            frame.save(root / "JPEGImages" / name / f"{t:05d}.jpg")
    one = {"clips_per_video": 1, "val_clips_per_video": 1}
    return DataConfig(source="vos_folder", root=str(root), num_frames=2, **one)


def test_check_counts_frames_objects_and_sizes(tmp_path):
    module = VideoDataModule(make_folder(tmp_path), 64, 0)
    module.setup()
    report = check_split(module.datasets["train"], "train")
    assert (report.videos, report.clips, report.frames) == (1, 1, 4)
    assert (report.objects, report.empty_frames) == (2, 1)
    assert dict(report.sizes) == {(30, 20): 4}
    assert "4 annotated frames (1 empty), 2 objects, frame sizes: 30 x 20 (4)" in str(report)


def test_check_counts_what_is_left_out(tmp_path):
    data = make_folder(tmp_path)
    (tmp_path / "Annotations" / "a" / "00002.png").unlink()
    (tmp_path / "JPEGImages" / "a" / "00003.jpg").unlink()
    labels = np.zeros((20, 30), np.uint8)
    labels[4:12, 4:12] = 1  # object 2 comes with the second frame
    Image.fromarray(labels).save(tmp_path / "Annotations" / "a" / "00000.png")
    module = VideoDataModule(data, 64, 0)
    module.setup()
    report = check_split(module.datasets["train"], "train")
    assert (report.frames, report.objects, report.late_objects) == (2, 2, 1)
    assert (report.unmatched_frames, report.unmatched_masks) == (1, 1)
    assert "\n  1 frames without a mask are left out\n  1 masks have no frame\n" in str(report)


def test_check_replaces_the_sheets_of_an_earlier_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train_0_other.png").touch()
    (out / "mine.png").touch()
    config = Config(data=make_folder(tmp_path), model=ModelConfig(image_size=64))
    check_data(config, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "index.html",
        "mine.png",
        "train_0_a.png",
        "val_0_b.png",
    ]


def test_check_looks_at_drawn_clips_too():
    synthetic = SyntheticConfig(num_train_clips=3, num_val_clips=2)
    module = VideoDataModule(DataConfig(synthetic=synthetic, num_frames=2), 64, 0)
    module.setup()
    report = check_split(module.datasets["val"], "val")
    assert (report.videos, report.frames, report.empty_frames) == (2, 4, 0)
    assert dict(report.sizes) == {(64, 64): 4}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=vos_folder", "data.root=/nowhere"], r"data\.root=/nowhere: /nowhere does not"),
        (["data=vos_folder"], r"data\.root must be the data set's folder"),
        (["data.num_framse=3"], r"unknown setting data\.num_framse; did you mean data\.num_frames"),
    ],
    ids=["missing", "unset", "typo"],
)
def test_check_ends_with_one_sentence(overrides, message):
    with pytest.raises(SystemExit, match=message):
        main(overrides)


def test_check_without_sam2_ends_with_one_sentence():
    code = (
        "import runpy, sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('sam2', 'training'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "runpy.run_module('core.data', run_name='__main__')"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the package sam2 is not installed: run `make setup`")
    assert result.stderr.strip().count("\n") == 0


def test_check_of_a_copy_under_another_name_asks_for_configs(tmp_path):
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(root / "core", tmp_path / "finetune")
    command = [sys.executable, "-m", "finetune.data", "data.root=x"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: looking through a data set needs the project's configs")
    assert result.stderr.strip().count("\n") == 0


def test_check_writes_one_sheet_per_sampled_clip(tmp_path, capsys):
    config = Config(data=make_folder(tmp_path / "set"), model=ModelConfig(image_size=64))
    check_data(config, tmp_path / "sheets")
    sheets = sorted((tmp_path / "sheets").iterdir())
    assert [path.name for path in sheets] == ["index.html", "train_0_a.png", "val_0_b.png"]
    assert np.asarray(Image.open(sheets[1])).ndim == 3
    assert "train: 1 video, " in capsys.readouterr().out


@pytest.fixture
def drawn(monkeypatch):
    """What `render_sheet` was asked to draw, and how."""
    from core.visualization.drawing import sheet as render

    calls, draw = [], render.render_sheet
    monkeypatch.setattr(
        render, "render_sheet", lambda clip, **how: calls.append((clip, how)) or draw(clip, **how)
    )
    return calls


def test_a_sheet_has_one_header_and_three_panels_per_frame(tmp_path, drawn):
    config = Config(data=make_folder(tmp_path / "set"), model=ModelConfig(image_size=64))
    check_data(config, tmp_path / "sheets")
    clip, _ = drawn[-1]
    assert clip.name == "val · b · mask prompts implied by the first frame's ground truth"
    assert [frame.number for frame in clip.frames] == [0, 1]
    assert (clip.ids, clip.category_names) == ([1, 2], ["", ""])
    assert [len(frame.prompts) for frame in clip.frames] == [2, 0]
    sheet = np.asarray(Image.open(tmp_path / "sheets" / "val_0_b.png"))
    # frames of 30 x 20 pixels, 64 x 43 on the sheet, are enlarged six times, next to each other and
    # below each other
    assert sheet.shape[1] == 2 * MARGIN + 3 * 384 + 2 * 6
    assert 2 * 258 < sheet.shape[0] < 2 * 258 + 200
    row = sheet[-MARGIN - 6 - 258 :][:258]
    truth, inside = row[:, MARGIN + 390 :][:, :384], 8 * 258 // 20
    assert (row[:, MARGIN:][:, :384] == row[0, MARGIN]).all()  # the frame is of one colour
    assert (truth[inside, 8 * 384 // 30] != truth[0, 0]).any()
    assert (truth[0, 0] == row[0, MARGIN]).all()


def test_large_frames_are_reduced_on_the_sheet(tmp_path, drawn):
    config = Config(data=make_folder(tmp_path / "set"), model=ModelConfig(image_size=1024))
    check_data(config, tmp_path / "sheets")
    clip, _ = drawn[-1]
    assert clip.images.shape == (2, 256, 384, 3)
    # 8 of 30 by 8 of 20 pixels of a frame of 1024 x 1024
    assert clip.gt.areas[0].tolist() == pytest.approx([1024**2 * 64 / 600] * 2, rel=0.01)


def test_names_of_a_data_set_are_in_the_legend(tmp_path, drawn):
    data = make_folder(tmp_path / "set")
    meta = {"videos": {"b": {"objects": {"2": {"category": "cat"}}}}}
    (tmp_path / "set" / "meta.json").write_text(json.dumps(meta))
    check_data(Config(data=data, model=ModelConfig(image_size=64)), tmp_path / "sheets")
    assert (drawn[-1][0].ids, drawn[-1][0].category_names) == ([1, 2], ["", "cat"])
