"""README's "Your own module": every example runs as it stands there, and what it says holds."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import RememberingLogger
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from scenes import widening_squares
from torch.utils.data import DataLoader
from trainings import make_trainer

from core.config import VisualizationsConfig

ROOT = Path(__file__).parents[2]

# What README's reader has: a model, a loss, data and a logger.
PROJECT = """
import torch
from fakes import RememberingLogger, outputs_of
from scenes import widening_squares


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch):
        logits = [self.scale * (masks[:, None].float() - 0.5) for masks in batch.masks]
        return [outputs_of(logits[t], masks, t) for t, masks in enumerate(batch.masks)]


def make_model():
    return Model()


def make_loss():
    return lambda outs, masks: sum(out["pred_masks_high_res"].mean() for out in outs)


def make_data():
    return widening_squares(3)


class WritingLogger(RememberingLogger):
    def log_image(self, key, images, step=None, **more):
        super().log_image(key, images, step, **more)
        with open("pictures.txt", "a") as file:
            file.write(f"{key} {step}\\n")


def make_logger():
    return WritingLogger()
"""


def examples():
    """The code of the section as (language, text), in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Your own module\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with every example under the name in its first line."""
    for language, text in examples():
        if language != "bash":
            path = tmp_path / re.match(r"# (\S+)\n", text)[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    (tmp_path / "my_project.py").write_text(PROJECT)
    shutil.copytree(ROOT / "configs" / "visualizations", tmp_path / "conf" / "visualizations")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_every_example_is_run_here():
    kinds = [(language, text.splitlines()[0]) for language, text in examples()]
    assert kinds == [
        ("python", "# my_module.py"),
        ("yaml", "# conf/config.yaml"),
        ("python", "# train_mine.py"),
        (
            "bash",
            "python train_mine.py visualizations.enabled=true visualizations.every_n_steps=100",
        ),
        ("python", "# my_named_module.py"),
        ("python", "# my_module_of_any_aspect.py"),
    ]


def test_the_shortest_way_draws(project):
    toys = importlib.import_module("my_project")
    module = importlib.import_module("my_module").MyModule(toys.make_model(), toys.make_loss())
    logger = RememberingLogger()
    make_trainer(project, logger).fit(module, widening_squares(3), widening_squares(2))
    assert logger.moments_of("train") == [("train/composites", 0)]
    assert logger.moments_of("val") == [("val/composites", 3)]


@pytest.mark.slow
@pytest.mark.long
def test_the_hydra_way_draws_when_the_command_line_says_so(project):
    (command,) = [text.split() for language, text in examples() if language == "bash"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    for given, drawn in ((command[1:], True), (command[1:2], False)):
        (project / "pictures.txt").unlink(missing_ok=True)
        subprocess.run([sys.executable, *given], cwd=project, env=environment, check=True)
        pictures = project / "pictures.txt"
        assert pictures.is_file() == drawn
        if drawn:
            # Later ones may be dropped for the time that they take.
            first, *later = pictures.read_text().splitlines()
            assert first == "train/composites 0"
            assert set(later) <= {f"train/composites {step}" for step in range(100, 1000, 100)}


def batch_of_positions(names, with_identifiers=True):
    """A batch of a collate function that writes positions: (video in batch, slot, frame)."""
    masks = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    masks[:, 0, 2:6, 2:6] = masks[:, 1, 8:12, 8:12] = True
    rows = torch.tensor([0, 1])
    identifiers = torch.stack(
        [torch.stack([torch.zeros(2).long(), rows, torch.full((2,), t)], 1) for t in range(2)]
    )
    return SimpleNamespace(
        img_batch=torch.zeros(2, 1, 3, 16, 16),
        masks=masks,
        obj_to_frame_idx=torch.stack([identifiers[..., 2], identifiers[..., 0]], -1),
        metadata=SimpleNamespace(
            unique_objects_identifier=identifiers if with_identifiers else None
        ),
        video_names=names,
    )


def loader(*batches):
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def test_names_given_to_the_hook_repair_those_of_a_collate_that_writes_positions(project, written):
    toys = importlib.import_module("my_project")
    kind = importlib.import_module("my_named_module").MyNamedModule
    logger = RememberingLogger()
    module = kind(toys.make_model(), toys.make_loss())
    make_trainer(project, logger).fit(module, loader(batch_of_positions(["operation 7"])))
    (caption,) = logger.captions["train/composites", 0]
    assert caption.startswith("train · step 0 · operation 7 · ")
    assert written.index("1 clip") == written.index("0 hook") + 1


def test_sizes_of_the_batch_in_work_are_kept_before_it_goes_to_a_device(project):
    toys = importlib.import_module("my_project")
    kind = importlib.import_module("my_module_of_any_aspect").MyModuleOfAnyAspect
    module = kind(toys.make_model(), toys.make_loss())
    batch = batch_of_positions([])
    batch.metadata.frame_orig_size = torch.tensor([480, 854]).expand(2, 2, 2)
    make_trainer(project, RememberingLogger()).fit(module, loader(batch))
    assert module.original_sizes == [(480, 854)]


@pytest.mark.parametrize(("with_identifiers", "name"), [(True, "video 0"), (False, "clip 0 of")])
def test_without_names_a_clip_is_called_by_its_position(project, with_identifiers, name):
    toys = importlib.import_module("my_project")
    kind = importlib.import_module("my_module").MyModule
    logger = RememberingLogger()
    batch = batch_of_positions([], with_identifiers)
    make_trainer(project, logger).fit(kind(toys.make_model(), toys.make_loss()), loader(batch))
    assert logger.captions["train/composites", 0][0].startswith(f"train · step 0 · {name}")


@dataclass
class SelfLast:
    """The trap: these defaults go before the group file."""

    defaults: list = field(default_factory=lambda: [{"visualizations": "default"}, "_self_"])
    visualizations: VisualizationsConfig = field(default_factory=VisualizationsConfig)


@dataclass
class SelfFirst:
    defaults: list = field(default_factory=lambda: ["_self_", {"visualizations": "default"}])
    visualizations: VisualizationsConfig = field(default_factory=VisualizationsConfig)


@pytest.mark.parametrize(("node", "kept"), [(SelfFirst, True), (SelfLast, False)])
def test_a_group_file_is_overridden_when_self_comes_last(tmp_path, node, kept):
    group = tmp_path / "visualizations"
    group.mkdir()
    text = (ROOT / "configs" / "visualizations" / "default.yaml").read_text()
    (group / "default.yaml").write_text(text.replace("enabled: false", "enabled: true"))
    ConfigStore.instance().store(name="readme_settings", node=node)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("readme_settings").visualizations.enabled == kept
        overridden = compose("readme_settings", ["visualizations.enabled=true"])
    assert overridden.visualizations.enabled
