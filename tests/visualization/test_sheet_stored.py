"""After a real training run the PNGs in SwanLab's store show what the batches held."""

import copy
import json

import lightning.pytorch as pl
import numpy as np
import pytest
import sheet_reference as reference
from fakes import ROOM
from PIL import Image
from processes import png_files
from scenes import coco_content, save_frame
from trainings import make_trainer

from core.config import Config, DataConfig, ModelConfig, SwanLabConfig, VisualizationsConfig
from core.data import VideoDataModule
from core.loggers import build_loggers, finish_swanlab
from core.trainer import SAM2LightningModule
from core.visualization.drawing.distances import render_distances
from core.visualization.drawing.strips import render_strips

MAX_FRAMES, STRIDE = 2, 2


class RecordingModule(SAM2LightningModule):
    """Keeps copies of everything that the hook is given, taken before it runs."""

    def __init__(self, config):
        super().__init__(config)
        self.recorded = []

    def maybe_log_visualizations(self, batch, outs_per_frame, batch_idx, stage, **names):
        outs = [detached(out) for out in outs_per_frame]
        self.recorded.append((stage, self.trainer.global_step, batch.clone(), outs))
        super().maybe_log_visualizations(batch, outs_per_frame, batch_idx, stage, **names)


def detached(value):
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [detached(item) for item in value]
    return value.detach().clone() if hasattr(value, "detach") else copy.copy(value)


def category_data(tmp_path):
    """Two videos with a mask slot for each of three categories."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps(coco_content(tmp_path)))
    for t in range(4):  # the videos would be the same
        save_frame(tmp_path / "frames" / f"y/{t:03d}.png", 10 + t)
    return {
        "source": "coco_video",
        "train_annotations": str(path),
        "val_annotations": str(path),
        "image_root": str(tmp_path / "frames"),
        "num_workers": 0,
        "clips_per_video": 2,
    }


def train(tmp_path, prompt_type, image_size, **data):
    config = Config(
        model=ModelConfig(
            image_size=image_size,
            prompt_type=prompt_type,
            num_correction_points=1,
            num_frames_to_correct=2,
        ),
        data=DataConfig(num_frames=3, batch_size=2, val_batch_size=2, **data),
        swanlab=SwanLabConfig(log_dir=str(tmp_path / "swanlog")),
        visualizations=VisualizationsConfig(
            **ROOM,
            every_n_steps=1,
            max_videos=2,
            max_frames=MAX_FRAMES,
            frame_stride=STRIDE,
            panel_size=64,
        ),
    )
    config.data.synthetic.num_val_clips = 2
    if prompt_type == "mixed":
        config.trainer.val_prompts = ["mask"]  # or there would be `val/prompts`, too
    pl.seed_everything(0, verbose=False)
    module = RecordingModule(config)
    trainer = make_trainer(
        tmp_path,
        build_loggers(config, tmp_path),
        max_steps=2,
        max_epochs=-1,
        val_check_interval=2,
        limit_val_batches=1,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(module, VideoDataModule(config.data, image_size, seed=0))
    finally:
        finish_swanlab(30)
    return module


def shows(sheet, expected):
    try:
        reference.check_sheet(sheet, expected)
    except AssertionError as error:
        return str(error)
    return True


@pytest.mark.parametrize(
    ("prompt_type", "image_size"),
    [("point", 64), ("bbox", 64), ("mask", 96), ("mixed", 64)],
)
def test_stored_sheets_show_the_recorded_batches(prompt_type, image_size, tmp_path):
    check_stored_sheets(tmp_path, train(tmp_path, prompt_type, image_size))


@pytest.mark.parametrize("prompt_type", ["point", "mask"])
def test_stored_sheets_of_the_category_layout_show_the_recorded_batches(prompt_type, tmp_path):
    module = train(tmp_path, prompt_type, 64, **category_data(tmp_path))
    assert all(batch.masks.shape[1] == 2 * 3 for _, _, batch, _ in module.recorded)
    check_stored_sheets(tmp_path, module)


def original_size(batch, video):
    """(height, width) of a video's files, as the collate function says for each of its objects."""
    rows = (batch.obj_to_frame_idx[0, :, 1] == video).nonzero().flatten()
    return tuple(batch.metadata.frame_orig_size[0, rows[0]].tolist())


def check_stored_sheets(tmp_path, module):
    """Every sheet that the recorded batches must give is in the store once, and no other.

    Beside them are the two pictures of what the validation found.
    """
    recorded, findings = module.recorded, module.findings
    paths = png_files(tmp_path / "swanlog")
    sheets = {path.name: np.asarray(Image.open(path)) for path in paths}
    assert len(recorded) == 3
    for stage, step, batch, outs in recorded:
        at_step = [name for name in sheets if name.startswith(f"{step:03d}-")]
        for video in range(2):
            expected = reference.expected_sheet(
                batch,
                outs,
                video,
                max_frames=MAX_FRAMES,
                stride=STRIDE,
                num_categories=None,
                panel_size=64,
                original=original_size(batch, video),
            )
            answers = {name: shows(sheets[name], expected) for name in at_step}
            matching = [name for name, answer in answers.items() if answer is True]
            assert len(matching) == 1, f"{stage} step {step} video {video}: {answers}"
            del sheets[matching[0]]
            at_step.remove(matching[0])
    drawn = [
        render_strips(findings.strips, "val · step 2"),
        render_distances(findings, "val · step 2"),
    ]
    for picture in drawn:
        (name,) = [name for name, sheet in sheets.items() if np.array_equal(sheet, picture)]
        del sheets[name]
    assert not sheets, "the store holds sheets of nothing that was recorded"
