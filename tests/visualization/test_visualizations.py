"""When pictures are taken, of what, and under which keys: real fits, a logger that remembers."""

from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader
from training.utils.data_utils import Frame, Object, VideoDatapoint, collate_fn

from core.config import VisualizationsConfig
from core.trainer import VisualizationsMixin
from core.visualization import visualizer
from core.visualization.cadence import Cadence

SIZE, NUM_FRAMES = 16, 3


class RememberingLogger(Logger):
    """Takes images as W&B's and SwanLab's loggers do and keeps them."""

    def __init__(self):
        super().__init__()
        self.images = []
        self.captions = {}
        self.metrics = []

    name = "remembering"
    version = "0"

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.metrics.append((dict(metrics), step))

    def log_image(self, key, images, step=None, caption=None):
        self.images.append((key, step, images))
        self.captions[key, step] = caption

    def moments(self, prefix):
        return [(key, step) for key, step, _ in self.images if key.startswith(prefix)]


class SomeonesModule(VisualizationsMixin, pl.LightningModule):
    """A module of someone's own: one weight, outputs shaped as SAM 2's."""

    def __init__(self, visualizations):
        super().__init__()
        self.config = SimpleNamespace(visualizations=visualizations)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def _step(self, batch, batch_idx, stage):
        outs = []
        for t, masks in enumerate(batch.masks):
            logits = self.scale * (masks[:, None].float() - 0.5)
            outs.append(
                {
                    "pred_masks_high_res": logits,
                    "point_inputs": None,
                    "mask_inputs": masks[:, None] if t == 0 else None,
                }
            )
        self.maybe_log_visualizations(batch, outs, batch_idx, stage)
        return sum(out["pred_masks_high_res"].mean() for out in outs)

    def training_step(self, batch, batch_idx):
        return self._step(batch, batch_idx, "train")

    def validation_step(self, batch, batch_idx):
        self._step(batch, batch_idx, "val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def make_video(index):
    """Clip `index` holds one square whose width tells which clip it is."""
    frames = []
    for t in range(NUM_FRAMES):
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        mask[4:8, : index + 1] = True
        frames.append(Frame(torch.zeros(3, SIZE, SIZE), [Object(1, t, mask)]))
    return VideoDatapoint(frames, video_id=index, size=(SIZE, SIZE))


def loader(num_clips, batch_size=1):
    videos = [make_video(index) for index in range(num_clips)]
    return DataLoader(
        videos, batch_size=batch_size, collate_fn=lambda batch: collate_fn(batch, "all")
    )


def fit(tmp_path, visualizations, *, num_train=4, num_val=0, batch_size=1, **trainer):
    logger = RememberingLogger()
    module = SomeonesModule(visualizations)
    pl.Trainer(
        accelerator="cpu",
        logger=logger,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_epochs": 1, "num_sanity_val_steps": 0, **trainer},
    ).fit(
        module,
        loader(num_train, batch_size),
        loader(num_val, batch_size) if num_val else None,
    )
    return logger, module


def visualizations(**fields):
    # Room and time for every event: the toy's steps are faster than any drawing.
    defaults = {"enabled": True, "max_pending": 100, "max_overhead": 1.0}
    return VisualizationsConfig(**{**defaults, **fields})


def test_nothing_is_drawn_by_default(tmp_path):
    logger, module = fit(tmp_path, VisualizationsConfig(), num_val=1)
    assert logger.images == []
    assert "_visualizer" not in module.__dict__


def test_train_draws_every_n_optimizer_steps(tmp_path):
    logger, _ = fit(tmp_path, visualizations(every_n_steps=3), num_train=8)
    assert logger.moments("train") == [("train/composites", step) for step in (0, 3, 6)]


def test_train_draws_once_per_optimizer_step_under_accumulation(tmp_path):
    logger, _ = fit(
        tmp_path, visualizations(every_n_steps=2), num_train=8, accumulate_grad_batches=2
    )
    assert logger.moments("train") == [("train/composites", step) for step in (0, 2)]


def test_val_draws_first_batch_and_every_n_batches_under_keys_of_their_own(tmp_path):
    logger, _ = fit(tmp_path, visualizations(every_n_steps=2), num_train=2, num_val=5)
    assert logger.moments("val") == [
        ("val/composites", 2),
        ("val/composites_batch2", 2),
        ("val/composites_batch4", 2),
    ]


def test_sanity_check_draws_nothing(tmp_path):
    logger, _ = fit(tmp_path, visualizations(), num_val=1, num_sanity_val_steps=1, num_train=1)
    assert logger.moments("val") == [("val/composites", 1)]


def test_pinned_clips_are_drawn_at_every_validation(tmp_path):
    config = visualizations(every_n_steps=100, pinned_clips=3)
    logger, _ = fit(
        tmp_path, config, num_train=4, num_val=6, batch_size=2, val_check_interval=1, max_epochs=1
    )
    drawn = [(key, step, len(images)) for key, step, images in logger.images if "val" in key]
    assert drawn == [
        ("val/composites", 1, 2),
        ("val/composites_batch1", 1, 1),
        ("val/composites", 2, 2),
        ("val/composites_batch1", 2, 1),
    ]


def test_pinned_clips_are_always_the_same(tmp_path):
    logger, _ = fit(tmp_path, visualizations(), num_train=3, num_val=2, val_check_interval=1)
    captions = [logger.captions[moment][0] for moment in logger.moments("val/composites")]
    assert len(captions) == 3
    assert all("video 0" in caption for caption in captions)


def test_worst_clips_are_those_of_lowest_iou(tmp_path, monkeypatch):
    step = SomeonesModule._step

    def misses_wide_squares(self, batch, batch_idx, stage):
        batch = batch.clone()
        batch.masks[0] = True  # the prompted frame; its prediction does not count
        if int(batch.masks[1].sum()) >= 4 * 4:
            self.scale.data.neg_()
        step(self, batch, batch_idx, stage)
        self.scale.data.abs_()

    monkeypatch.setattr(
        SomeonesModule,
        "validation_step",
        lambda self, batch, batch_idx: misses_wide_squares(self, batch, batch_idx, "val"),
    )
    logger, _ = fit(tmp_path, visualizations(worst_clips=2), num_train=1, num_val=5)
    assert logger.moments("val/worst") == [("val/worst", 1)]
    names = {caption.split(" · ")[2] for caption in logger.captions["val/worst", 1]}
    assert names == {"video 3", "video 4"}


def test_validate_after_fit_at_the_same_step_gets_another_key(tmp_path):
    logger = RememberingLogger()
    module = SomeonesModule(visualizations())
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        default_root_dir=tmp_path,
        max_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(1), loader(1))
    trainer.validate(module, loader(1), verbose=False)
    assert logger.moments("val") == [("val/composites", 1), ("val/composites_2", 1)]


def test_clips_that_cannot_be_measured_are_no_worst_clips(tmp_path, monkeypatch, caplog):
    step = SomeonesModule._step

    def nothing_is_there(self, batch, batch_idx):
        batch = batch.clone()
        batch.masks[:] = False
        step(self, batch, batch_idx, "val")

    monkeypatch.setattr(SomeonesModule, "validation_step", nothing_is_there)
    logger, _ = fit(tmp_path, visualizations(worst_clips=2), num_train=1, num_val=2)
    assert logger.moments("val/composites")
    assert logger.moments("val/worst") == []
    assert not [record for record in caplog.records if record.name.startswith("core.")]


def test_two_fits_from_step_zero_with_one_logger_share_no_key(tmp_path):
    logger = RememberingLogger()
    module = SomeonesModule(visualizations(every_n_steps=1))
    for _ in range(2):
        pl.Trainer(
            accelerator="cpu",
            logger=logger,
            default_root_dir=tmp_path,
            max_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(module, loader(3))
    assert logger.moments("train") == [
        *(("train/composites", step) for step in range(3)),
        *(("train/composites_2", step) for step in range(3)),
    ]


def test_every_animation_of_a_step_has_a_key_of_its_own(tmp_path, monkeypatch):
    names = []

    def remember(loggers, key, frames, step, caption):
        names.append((key, step))
        return True

    monkeypatch.setattr(visualizer, "takes_gifs", lambda logger: True, raising=False)
    monkeypatch.setattr(visualizer, "log_gif", remember)
    logger = RememberingLogger()
    module = SomeonesModule(visualizations(animation=True, max_videos=3))
    for _ in range(2):
        pl.Trainer(
            accelerator="cpu", logger=logger, default_root_dir=tmp_path, enable_progress_bar=False
        ).validate(module, loader(3, batch_size=3), verbose=False)
    assert names == [
        ("val/animation", 0),
        ("val/animation_clip1", 0),
        ("val/animation_clip2", 0),
        ("val/animation_2", 0),
        ("val/animation_2_clip1", 0),
        ("val/animation_2_clip2", 0),
    ]


def test_animations_that_no_logger_takes_are_neither_kept_nor_drawn(tmp_path, monkeypatch, caplog):
    frames = []
    take = visualizer.take_snapshot

    def remember(*args, **kwargs):
        snapshot = take(*args, **kwargs)
        frames.append(snapshot.choice.frames)
        return snapshot

    monkeypatch.setattr(visualizer, "take_snapshot", remember)
    monkeypatch.setattr(visualizer, "render_animation", None)  # to call it would be a failure
    section = visualizations(animation=True, max_frames=1)
    logger, _ = fit(tmp_path, section, num_train=1, num_val=2)
    assert logger.moments("val")
    assert {len(kept) for kept in frames} == {1}
    said = [record.getMessage() for record in caplog.records if record.name.startswith("core.")]
    assert said == ["visualizations: no logger takes GIFs; animations are skipped"]


def test_animation_too_large_for_the_logger_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(visualizer, "takes_gifs", lambda logger: True, raising=False)
    monkeypatch.setattr(visualizer, "log_gif", lambda *args, **kwargs: False)
    fit(tmp_path, visualizations(animation=True, every_n_steps=1), num_train=1, num_val=3)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("core.")]
    assert said == [
        "visualizations: val/animation is left out, SwanLab takes no file over 10 MiB; smaller "
        "than visualizations.panel_size=256 may fit"
    ]


def test_max_videos_gives_one_sheet_per_video(tmp_path):
    config = visualizations(max_videos=3, every_n_steps=10)
    logger, _ = fit(tmp_path, config, num_train=4, batch_size=4)
    (_, _, images), *_ = logger.images
    assert len(images) == 3
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images)


def test_max_frames_and_stride_choose_the_rows(tmp_path):
    heights = {}
    for name, fields in {
        "one": {"max_frames": 1},
        "three": {"max_frames": 3},
        "every second": {"max_frames": 3, "frame_stride": 2},
    }.items():
        logger, _ = fit(tmp_path, visualizations(**fields), num_train=1)
        heights[name] = logger.images[0][2][0].shape[0]
    row = (heights["three"] - heights["one"]) / 2
    assert heights["every second"] == heights["one"] + row


@pytest.mark.parametrize(
    "section",
    [
        {"enabled": True, "every_n_steps": 1},
        SimpleNamespace(enabled=True, every_n_steps=1, max_frames=2),
    ],
    ids=["mapping", "object"],
)
def test_the_mixin_takes_any_kind_of_section(tmp_path, section):
    logger, _ = fit(tmp_path, section, num_train=1)
    assert logger.moments("train") == [("train/composites", 0)]


def test_a_setting_that_does_not_exist_is_named_once(tmp_path, caplog):
    logger, _ = fit(tmp_path, {"enabled": True, "every_n_step": 1}, num_train=3)
    assert not logger.images
    assert caplog.text.count("visualizations.every_n_step is no setting") == 1


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="stage must be 'train' or 'val', got 'training'"):
        Cadence(VisualizationsConfig()).due("training", 0, 0)


def test_a_module_with_pictures_can_be_copied(tmp_path):
    import copy

    _, module = fit(tmp_path, visualizations(), num_train=1)
    module.trainer = None
    twin = copy.deepcopy(module)
    assert twin.scale == module.scale
    assert twin._visualizer is not module._visualizer


def test_pictures_are_no_part_of_the_checkpoint(tmp_path):
    _, module = fit(tmp_path, visualizations(), num_train=1)
    assert list(module.state_dict()) == ["scale"]
