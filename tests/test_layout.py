"""What others build on: the names and signatures of the plan, what is imported, and the wheel."""

import dataclasses
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest
import torch

import core.config
import core.trainer
import core.utils

ROOT = Path(__file__).resolve().parents[1]


# The plan, literally.


@dataclasses.dataclass
class PromptData:
    prompt_type: str
    obj_id: int
    points: Optional[torch.Tensor] = None
    labels: Optional[torch.Tensor] = None
    bbox: Optional[torch.Tensor] = None
    mask: Optional[torch.Tensor] = None


@dataclasses.dataclass
class VisualizationsConfig:
    enabled: bool = False
    every_n_steps: int = 200
    max_frames: int = 4
    max_videos: int = 1
    frame_stride: int = 1
    num_categories: Optional[int] = None


def to_video_frames(batch, video_idx): ...


def to_category_gt_masks(batch, num_categories, video_idx): ...


def extract_category_preds(outs_per_frame, key="pred_masks_high_res"): ...


def build_prompts_from_gt_first_frame(gt_masks_tchw, prompt_type) -> list[PromptData]: ...


def create_composite_visualization(
    image, gt_mask, pred_mask, prompts=None, title="Training Sample", num_categories=13
): ...


def log_training_visualizations(pl_logger, batch, outs_per_frame, *, stage, step): ...


def safe_log_image(pl_logger, key, image, step=None) -> bool: ...


def maybe_log_visualizations(self, batch, outs_per_frame, batch_idx, stage): ...


PLAN = {
    PromptData: core.utils,
    VisualizationsConfig: core.config,
    to_video_frames: core.utils,
    to_category_gt_masks: core.utils,
    extract_category_preds: core.utils,
    build_prompts_from_gt_first_frame: core.utils,
    create_composite_visualization: core.utils,
    log_training_visualizations: core.utils,
    safe_log_image: core.utils,
    maybe_log_visualizations: core.trainer.SAM2LightningModule,
}


def parameters_of(function):
    """(name, kind, default) of every parameter."""
    parameters = inspect.signature(function).parameters.values()
    return [(item.name, item.kind, item.default) for item in parameters]


@pytest.mark.parametrize(("planned", "place"), PLAN.items(), ids=lambda item: item.__name__)
def test_the_plan_is_kept_and_what_is_added_has_a_default(planned, place):
    expected = parameters_of(planned)
    found = parameters_of(getattr(place, planned.__name__))
    assert found[: len(expected)] == expected
    assert all(default is not inspect.Parameter.empty for *_, default in found[len(expected) :])


@pytest.mark.parametrize(
    ("planned", "place"),
    [(PromptData, core.utils), (VisualizationsConfig, core.config)],
    ids=lambda item: item.__name__,
)
def test_the_dataclasses_of_the_plan_keep_their_fields_and_defaults(planned, place):
    def fields_of(section):
        return [(field.name, field.default) for field in dataclasses.fields(section)]

    expected, found = fields_of(planned), fields_of(getattr(place, planned.__name__))
    assert found[: len(expected)] == expected


FACES = {
    "core.config": """
        ARCHITECTURES CONFIG_DIR LOGGERS PRECISIONS PROMPT_TYPES TRAINABLE_PRESETS
        AugmentationConfig Config DataConfig LossConfig ModelConfig OptimizerConfig SchedulerConfig
        SwanLabConfig SyntheticConfig TrainerConfig VisualizationsConfig explain_typos
        register_schema to_config
    """,
    "core.trainer": "CORE_LOSS SAM2LightningModule VisualizationsMixin log",
    "core.utils": """
        PromptData build_prompts_from_gt_first_frame create_composite_visualization draw_sheets
        encode_png extract_category_preds log log_gif log_images log_training_visualizations
        safe_log_image takes_gifs to_category_gt_masks to_video_frames
    """,
}


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_the_faces_can_be_imported(face):
    module = importlib.import_module(face)
    assert [name for name in FACES[face].split() if not hasattr(module, name)] == []


def run_python(*arguments, cwd=ROOT, path=ROOT):
    """Run Python in a process of its own, with `path` before everything that is installed."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_the_visualization_loads_nothing_of_the_training_program():
    code = "import core.visualization, sys; print(*sys.modules)"
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    loaded = result.stdout.split()
    assert "core.visualization" in loaded
    foreign = ("hydra", "omegaconf", "sam2", "training", "core.model", "core.data", "core.optim")
    assert [name for name in loaded if f"{name}.".startswith(tuple(f"{n}." for n in foreign))] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A folder into which the wheel is installed, without what it depends on."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    # Building leaves files beside the sources.
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "core", source / "core", ignore=shutil.ignore_patterns("__pycache__"))
    pip = ("-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", str(source / "dist"), str(source))
    built = run_python(*pip, *build, cwd=source, path=source)
    assert built.returncode == 0, built.stderr
    (file,) = (source / "dist").glob("*.whl")
    install = ("install", "--no-deps", "--no-index", "--target", str(target), str(file))
    installed = run_python(*pip, *install, cwd=source, path=source)
    assert installed.returncode == 0, installed.stderr
    return target


IMPORT_ALL = """
import importlib, json, pkgutil
from core.official import import_sam2
import_sam2()
import core
names = [item.name for item in pkgutil.walk_packages(core.__path__, "core.")]
modules = [importlib.import_module(n) for n in names if not n.endswith("__main__")]
print(json.dumps({module.__name__: module.__file__ for module in [core, *modules]}))
"""


@pytest.mark.slow
def test_every_module_is_in_the_wheel_and_imports_from_it(wheel, tmp_path):
    result = run_python("-c", IMPORT_ALL, cwd=tmp_path, path=wheel)
    assert result.returncode == 0, result.stderr
    files = json.loads(result.stdout.splitlines()[-1])
    paths = {Path(file).relative_to(wheel) for file in files.values()}
    expected = {path.relative_to(ROOT) for path in (ROOT / "core").rglob("*.py")}
    assert paths == {path for path in expected if path.name != "__main__.py"}


@pytest.mark.slow
def test_looking_at_data_from_the_wheel_says_that_it_needs_the_project(wheel, tmp_path):
    result = run_python("-m", "core.data", "data.root=x", cwd=tmp_path, path=wheel)
    assert result.returncode == 1
    assert "configs/" in result.stderr
    assert result.stderr.strip().count("\n") == 0
