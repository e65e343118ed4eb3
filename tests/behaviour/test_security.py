"""Data sets and checkpoints are untrusted; keys and passwords stay where they are."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from processes import mpl_cache

from core.config import DataConfig, ModelConfig
from core.data import DataError, VideoDataModule
from core.export import export_checkpoint
from core.model.build import build_model
from core.model.loading import load_weights
from core.model.weights import CheckpointError
from core.utils import create_composite_visualization, log_training_visualizations

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sk-9f8e7d6c5b4a3210-not-to-be-seen"


class Attack:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(image_size=64))


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
@pytest.mark.parametrize(
    "load",
    [load_weights, lambda model, path: export_checkpoint(path, path.with_name("out.pt"))],
    ids=["load", "export"],
)
def test_weights_that_run_code_are_refused_without_running_it(tmp_path, model, load, plain):
    target, path = tmp_path / "attacked", tmp_path / "weights.pt"
    content = {"model": {"weight": Attack(target)}, "hyper_parameters": Attack(target)}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"weights\.pt .*expected tensors and plain"):
        load(model, path)
    assert not target.exists()


def make_coco(folder, file_name, path=None) -> Path:
    images = [
        {"id": t, "video_id": "v", "order_in_video": t, "file_name": f"{t}_{file_name}"}
        for t in range(2)
    ]
    if path is not None:
        images = [image | {"path": str(path)} for image in images]
    square = [[1, 1, 6, 1, 6, 6, 1, 6]]
    annotations = [{"image_id": t, "category_id": 1, "segmentation": square} for t in range(2)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "tool"}],
    }
    target = folder / "train.json"
    target.write_text(json.dumps(content))
    return target


def setup_coco(folder, *args, **kwargs) -> VideoDataModule:
    (folder / "root").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    config = DataConfig(
        source="coco_video",
        train_annotations=str(make_coco(folder, *args, **kwargs)),
        image_root=str(folder / "root"),
        num_frames=2,
    )
    module = VideoDataModule(config, 64, seed=0)
    module.setup()
    return module


@pytest.mark.filterwarnings("ignore:the data set has one video")
def test_the_path_of_the_json_is_not_used_when_the_image_root_is_set(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        setup_coco(tmp_path, "inside.png", path=tmp_path / "secret.png")


@pytest.mark.filterwarnings("ignore:the data set has one video")
@pytest.mark.parametrize("folder", ["JPEGImages", "Annotations"])
def test_images_beyond_the_limit_are_refused_before_decoding(tmp_path, monkeypatch, folder):
    for name, mode in (("JPEGImages", "RGB"), ("Annotations", "P")):
        (tmp_path / name / "a").mkdir(parents=True)
        size = (400, 400) if name == folder else (8, 8)
        for t in range(2):
            Image.new(mode, size, 1).save(tmp_path / name / "a" / f"{t:05d}.png")
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    config = DataConfig(
        source="vos_folder", root=str(tmp_path), num_frames=2, max_image_pixels=10_000
    )
    with pytest.raises(DataError, match=r"400 x 400 pixels, .*max_image_pixels=10000"):
        VideoDataModule(config, 64, seed=0).setup()


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@pytest.mark.parametrize("name", [r"$\frac{1}{0}$", r"$\bad", "../../etc", "a\nb\x00", "{0}"])
def test_names_are_drawn_as_plain_text(name):
    image = np.zeros((3, 32, 32), np.uint8)
    sheet = create_composite_visualization(image, None, None, title=name)
    plain = create_composite_visualization(image, None, None, title="")
    assert sheet.shape == plain.shape  # mathtext and line breaks would change the layout
    assert (sheet != plain).any()


def test_names_of_a_data_set_never_reach_a_key():
    layout = torch.zeros(1, 1, 2, dtype=torch.int32)
    batch = SimpleNamespace(
        img_batch=torch.zeros(1, 1, 3, 16, 16),
        masks=torch.ones(1, 1, 16, 16, dtype=torch.bool),
        obj_to_frame_idx=layout,
    )
    outs = [{"pred_masks_high_res": torch.ones(1, 1, 16, 16)}]
    keys = []

    class Logger:
        def log_image(self, key, images, step=None, caption=None):
            keys.append(key)

    names = ["../../x/y"]
    assert log_training_visualizations(
        Logger(), batch, outs, stage="val", step=0, category_names=names
    )
    assert keys == ["val/composites"]


def test_the_dashboard_binds_to_loopback():
    command = subprocess.run(
        ["make", "-n", "dashboard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"swanlab watch \S+ -h 127\.0\.0\.1 -p \d+", command)


def files_with(text: str, folder: Path) -> list[str]:
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def user_environment() -> dict[str, str]:
    """The environment without what quickens SwanLab in other tests: here it looks at everything."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SWANLAB_")}
    return env | {"OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(mpl_cache())}


def test_api_keys_reach_neither_log_nor_files_nor_checkpoints(tmp_path):
    arguments = [
        "model.image_size=64", "data.num_frames=2", "data.batch_size=1", "data.val_batch_size=1",
        "data.synthetic.num_val_clips=1", "trainer.max_steps=1", "trainer.val_check_interval=1",
        "trainer.validate_first=false", "trainer.enable_progress_bar=false",
        "visualizations.enabled=true", f"swanlab.log_dir={tmp_path / 'swanlog'}",
        f"hydra.run.dir={tmp_path / 'run'}", "logger=[swanlab,tensorboard,csv]",
    ]  # fmt: skip
    (tmp_path / "home").mkdir()
    keys = ("SWANLAB_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")
    env = user_environment() | dict.fromkeys(keys, SECRET) | {"HOME": str(tmp_path / "home")}
    run = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert SECRET not in run.stdout + run.stderr
    assert files_with("composites", tmp_path / "swanlog")
    assert files_with(SECRET, tmp_path) == []


@pytest.mark.parametrize("login", [pytest.param("", marks=pytest.mark.long), f"user:{SECRET}@"])
def test_a_password_in_the_git_remote_does_not_reach_the_dashboard(tmp_path, login):
    remote = f"https://{login}example.org/repo"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
    # A process of its own: SwanLab remembers what earlier runs of a process found out.
    code = f"""
import pathlib
import sys
sys.path.insert(0, {str(ROOT)!r})
import swanlab
from core.config import Config, SwanLabConfig
from core.loggers import build_loggers, finish_swanlab
init, seen = swanlab.init, []
swanlab.init = lambda **how: seen.append(how["settings"].probe.git) or init(**how)
build_loggers(Config(swanlab=SwanLabConfig(log_dir="swanlog")), pathlib.Path("run"))
assert finish_swanlab(60)
assert seen == [{not login}], seen  # without a password git is looked at as usual
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, cwd=tmp_path, env=user_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert files_with(SECRET, tmp_path / "swanlog") == []
    if login:
        assert files_with("example.org/repo", tmp_path / "swanlog") == []
