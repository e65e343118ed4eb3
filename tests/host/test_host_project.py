"""A project of somebody else's, with a package `core` of its own and a copy of ours beside it."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
NAME, TIME_LIMIT_S = "sam2_viz", 200
# The host goes through its kinds of prompts twice, with one video per batch and with two.
KINDS_OF_STEPS = [f"{kind}-{count}" for count in (1, 2) for kind in ("point", "box", "mask")]
NUM_STEPS = len(KINDS_OF_STEPS)
EVERY_STEP = (
    "visualizations.enabled=true",
    "visualizations.every_n_steps=1",
    "visualizations.max_videos=2",
    "visualizations.panel_size=192",
    "visualizations.max_pending=100",
    "visualizations.max_overhead=1.0",
)


@pytest.fixture
def host(tmp_path):
    """Runs Python in a toy project of its own."""
    return functools.partial(run, make_project(tmp_path / "project"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with a picture of every batch."""
    project = make_project(tmp_path_factory.mktemp("trained") / "project")
    (project / "kept").mkdir()
    return train(functools.partial(run, project), *EVERY_STEP)


def make_project(project):
    """The toy project with our folder copied into it under another name."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parent / "project", project, ignore=ignored)
    shutil.copytree(REPOSITORY / "core", project / NAME, ignore=ignored)
    return project


def run(project, *args, **environment):
    """Run Python in the project; nothing of the repository is on its path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *args],
        cwd=project,
        env=inherited | {"OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    done.project = project
    return done


def train(host, *overrides, **environment):
    done = host("train.py", "hydra.run.dir=.", *overrides, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "own names: the host's own" in done.stdout
    assert f"own package: {done.project}" in done.stdout
    return done


def warnings_of(done):
    """Warnings and errors of ours in Hydra's log, and Lightning's that name us."""
    logged = (done.project / "train.log").read_text()
    return [line for line in logged.splitlines() if re.search(rf"\[{NAME}[.\w]*\]\[[WE]", line)]


def test_host_trains_with_pictures_and_without_a_warning(trained):
    assert warnings_of(trained) == []
    assert "Traceback" not in trained.stdout + trained.stderr
    for stage, steps in (("train", range(NUM_STEPS)), ("val", [NUM_STEPS])):
        pictures = {path.name for path in (trained.project / f"pictures/{stage}").rglob("*.png")}
        assert {f"{step}_0.png" for step in steps} <= pictures


@pytest.mark.parametrize("step", range(NUM_STEPS), ids=KINDS_OF_STEPS)
def test_every_prompt_of_the_host_is_on_its_pictures(trained, step):
    check_pictures(trained.project, "train", step)


def check_pictures(project, stage, step):
    """Every prompt of one batch is on the sheets of its videos, in place and colour."""
    shown = read_kept(project, stage, step)
    outs, obj_to_cat = shown["outs"], shown["obj_to_cat"]
    frames = np.array(shown["frames"], np.uint8)
    kinds = {"point_inputs": "point", "mask_inputs": "mask"}
    assert any(outs[0][name] is not None for name in kinds)
    for video in range(frames.shape[1]):
        path = project / "pictures" / stage / "composites" / f"{step}_{video}.png"
        pixels = np.asarray(Image.open(path).convert("RGB"))
        images = [frame.repeat(2, 0).repeat(2, 1) for frame in frames[:, video]]
        # Words cannot be read here: every prompt has an owner, so there is nothing to note.
        labels = [f"frame {t}" for t in range(len(frames))]
        sheet = reference.Sheet(pixels, labels, video, images, frames.shape[2:4])
        given = reference.prompts_of(outs, len(shown["videos_of_rows"]), obj_to_cat)
        assert given[0].prompts
        assert all(prompt.row is not None for prompt in given[0].prompts)
        reference.check_sheet(sheet, outs, shown["videos_of_rows"], obj_to_cat)


def read_kept(project, stage, step):
    """What the host kept of a batch, without the host's classes, which are read in its project."""
    script = (
        "import sys, torch; shown = torch.load(sys.argv[1], weights_only=False); "
        "batch = shown.pop('batch'); shown['frames'] = batch.frames.numpy(); "
        "shown['videos_of_rows'] = batch.obj_to_frame_idx[0, :, 1].tolist(); "
        "torch.save(shown, sys.argv[2])"
    )
    source, plain = (project / "kept" / f"{stage}_{step}{end}" for end in (".pt", ".plain"))
    done = run(project, "-c", script, str(source), str(plain))
    assert done.returncode == 0, done.stderr
    return torch.load(plain, weights_only=False)


def test_pictures_change_no_weight_of_the_host(trained, host):
    without = train(host, "visualizations.enabled=false")
    weights = [re.search("weights: (.*)", done.stdout)[1] for done in (trained, without)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_group_file_is_overridden_where_the_host_comes_last(host):
    """The trap that README names; what the command line says holds all the same."""
    done = host("train.py", "visualizations=pictures", "--cfg", "job")
    assert "enabled: false" in done.stdout
    done = host(
        "train.py", "visualizations=pictures", "visualizations.enabled=true", "--cfg", "job"
    )
    assert "enabled: true" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("lacking", ["isal", "swanlab"])
def test_what_the_machine_lacks_costs_no_training(host, lacking):
    done = train(host, *EVERY_STEP, "steps=2", HOST_LACKS=lacking)
    assert list((done.project / "pictures/train/composites").iterdir())


@pytest.mark.long
def test_the_mixin_loads_neither_hydra_nor_the_training_program(host):
    names = ("model", "data", "optim", "trainer", "utils", "run")
    unwanted = ["hydra", "omegaconf", "sam2", "training", *(f"{NAME}.{name}" for name in names)]
    script = (
        f"from {NAME}.visualization import VisualizationsMixin, VisualizationsConfig; "
        "import json, sys; print(json.dumps(sorted(sys.modules)))"
    )
    done = host("-c", script)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert not [name for name in unwanted if name in loaded]
    assert not [name for name in loaded if name == "core" or name.startswith("core.")]


@pytest.mark.parametrize("own_folder", [False, True], ids=["no configs", "configs of its own"])
def test_looking_at_data_says_that_it_needs_our_configurations(host, own_folder):
    if own_folder:
        (host.args[0] / "configs").mkdir()
        (host.args[0] / "configs" / "mine.yaml").write_text("seed: 1\n")
    done = host("-m", f"{NAME}.data")
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert "configs/" in lines[0]
