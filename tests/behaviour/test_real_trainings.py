"""What the doctor says of whole trainings, good and bad, and where outcomes find exchanged ids."""

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from seeds import REPOSITORY, train
from torch.utils.data import Dataset
from trainings import make_trainer

from core.config import config_of
from core.data import VideoDataModule
from core.trainer import SAM2LightningModule

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # minutes of a core each

REAL_VIDEOS = REPOSITORY.parent / "shared" / "data" / "vos_sample"
FIRST_EXCHANGED = 2  # the frame, of 0 to 3


def last_words(folder):
    """What the doctor said at the last validation of a run; empty: nothing."""
    tables = [path.stem for path in Path(folder, "metrics").glob("val_step*_frames.csv")]
    last = max(int(re.fullmatch(r"val_step(\d+)_frames", name)[1]) for name in tables)
    said = re.search(rf"doctor, step {last}:\n((?:  .*\n)+)", Path(folder, "train.log").read_text())
    return said[1] if said else ""


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default")
    iou, _ = train(folder, 0)
    assert iou > 0.9
    return folder


def test_of_the_default_run_the_doctor_says_nothing(default_run):
    assert last_words(default_run) == ""


def test_of_a_real_clip_learnt_by_heart_the_doctor_says_nothing(tmp_path):
    if not REAL_VIDEOS.is_dir():
        pytest.skip("there is no real video beside the repository")
    off = "visualizations.enabled=false"
    iou, _ = train(tmp_path, 0, "experiment=overfit_clip", f"data.root={REAL_VIDEOS}", off)
    assert iou > 0.8
    assert last_words(tmp_path) == ""


class Exchanged(Dataset):
    """Clips of which every second one calls its first two objects by each other's ids."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getattr__(self, name):
        return getattr(self.clips, name)

    def __getitem__(self, key):
        clip = self.clips[key]
        if key[-1] % 2 == 0:
            for frame in clip.frames[FIRST_EXCHANGED:]:
                one, other = frame.objects[:2]
                one.segment, other.segment = other.segment, one.segment
        return clip


def test_ids_that_are_exchanged_are_found_as_swaps_from_that_frame_on(default_run, tmp_path):
    stored = torch.load(default_run / "checkpoints" / "last.ckpt", weights_only=False)
    config = config_of(stored["hyper_parameters"]["config"])
    module = SAM2LightningModule(config)
    module.load_state_dict(stored["state_dict"])
    data = VideoDataModule(config.data, config.model.image_size, config.seed)
    data.setup()
    data.datasets["val"] = Exchanged(data.datasets["val"])
    make_trainer(tmp_path).validate(module, data, verbose=False)
    with open(tmp_path / "metrics" / "val_step0_frames.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    found = Counter()
    for row in rows:
        is_exchanged = int(row["video"].split("_")[-1]) % 2 == 0 and row["object"] in ("1", "2")
        is_late = int(row["frame"]) >= FIRST_EXCHANGED
        found[is_exchanged and is_late, row["outcome"] == "swapped"] += 1
    num_clips = len({row["video"] for row in rows})
    assert found[True, True] == 2 * num_clips // 2 * (4 - FIRST_EXCHANGED)
    assert found[True, False] == found[False, True] == 0


def test_iou_falls_behind_the_prompt_where_the_memory_is_frozen_at_random_weights(tmp_path):
    others = (
        "image_encoder,sam_prompt_encoder,sam_mask_decoder,mask_downsample,obj_ptr_proj,"
        "obj_ptr_tpos_proj,no_obj_ptr"
    )
    train(
        tmp_path,
        0,
        "model.num_init_cond_frames=1",
        "data.num_frames=8",
        f"model.trainable_modules=[{others}]",
    )
    ious = defaultdict(list)
    (last,) = tmp_path.glob("metrics/val_step500_frames.csv")
    with open(last, newline="") as table:
        for row in csv.DictReader(table):
            ious[int(row["frame"])].append(float(row["iou"]))
    means = [np.mean(ious[t]) for t in range(8)]
    assert means[0] > 0.9
    assert max(means[1:]) < 0.5
    assert "IoU falls as soon as the prompt is gone" in last_words(tmp_path)
    # advice is given once
    assert "its weights are random and not trained" in Path(tmp_path, "train.log").read_text()


def test_a_rate_a_hundred_times_too_high_is_named(tmp_path):
    train(
        tmp_path, 0, "optimizer.lr=0.05", "trainer.max_steps=200", "trainer.val_check_interval=50"
    )
    assert "worse than the weights that it started from" in last_words(tmp_path)
    assert "nothing is predicted" in last_words(tmp_path)
