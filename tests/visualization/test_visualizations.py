"""When pictures are taken, of what, and under which keys: real fits, a logger that remembers."""

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import lightning.pytorch as pl
import numpy as np
import pytest
from fakes import ROOM, RememberingLogger, SomeonesModule
from omegaconf import OmegaConf
from scenes import widening_squares
from trainings import make_trainer

from core.config import VisualizationsConfig
from core.trainer import VisualizationsMixin
from core.visualization import publisher, visualizer, visualizer_of

ROOT = Path(__file__).parents[2]


def fit(tmp_path, visualizations, *, num_train=4, num_val=0, batch_size=1, **trainer):
    logger = RememberingLogger()
    module = SomeonesModule(visualizations)
    make_trainer(tmp_path, logger, **trainer).fit(
        module,
        widening_squares(num_train, batch_size),
        widening_squares(num_val, batch_size) if num_val else None,
    )
    return logger, module


def visualizations(**fields):
    return VisualizationsConfig(**{**ROOM, **fields})


def test_nothing_is_drawn_by_default(tmp_path):
    logger, module = fit(tmp_path, VisualizationsConfig(), num_val=1)
    assert logger.images == {}
    assert visualizer_of(module) is None


def test_train_draws_every_n_optimizer_steps(tmp_path):
    logger, _ = fit(tmp_path, visualizations(every_n_steps=3), num_train=8)
    assert logger.moments_of("train") == [("train/composites", step) for step in (0, 3, 6)]


def test_train_draws_once_per_optimizer_step_under_accumulation(tmp_path):
    logger, _ = fit(
        tmp_path, visualizations(every_n_steps=2), num_train=8, accumulate_grad_batches=2
    )
    assert logger.moments_of("train") == [("train/composites", step) for step in (0, 2)]


def test_val_draws_first_batch_and_every_n_batches_under_keys_of_their_own(tmp_path):
    logger, _ = fit(tmp_path, visualizations(every_n_steps=2), num_train=2, num_val=5)
    assert logger.moments_of("val") == [
        ("val/composites", 2),
        ("val/composites_batch2", 2),
        ("val/composites_batch4", 2),
    ]


def test_sanity_check_draws_nothing(tmp_path):
    logger, _ = fit(tmp_path, visualizations(), num_val=1, num_sanity_val_steps=1, num_train=1)
    assert logger.moments_of("val") == [("val/composites", 1)]


def test_pinned_clips_are_drawn_at_every_validation(tmp_path):
    config = visualizations(every_n_steps=100, pinned_clips=3)
    logger, _ = fit(
        tmp_path, config, num_train=4, num_val=6, batch_size=2, val_check_interval=1, max_epochs=1
    )
    drawn = [(*moment, len(logger.images[moment])) for moment in logger.moments_of("val")]
    assert drawn == [
        ("val/composites", 1, 2),
        ("val/composites_batch1", 1, 1),
        ("val/composites", 2, 2),
        ("val/composites_batch1", 2, 1),
    ]


def test_pinned_clips_are_always_the_same(tmp_path):
    logger, _ = fit(tmp_path, visualizations(), num_train=3, num_val=2, val_check_interval=1)
    captions = [logger.captions[moment][0] for moment in logger.moments_of("val/composites")]
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
    assert logger.moments_of("val/worst") == [("val/worst", 1)]
    names = {caption.split(" · ")[2] for caption in logger.captions["val/worst", 1]}
    assert names == {"video 3", "video 4"}


def test_validate_after_fit_at_the_same_step_gets_another_key(tmp_path):
    logger = RememberingLogger()
    module = SomeonesModule(visualizations())
    trainer = make_trainer(tmp_path, logger, max_steps=1)
    trainer.fit(module, widening_squares(1), widening_squares(1))
    trainer.validate(module, widening_squares(1), verbose=False)
    assert logger.moments_of("val") == [("val/composites", 1), ("val/composites_2", 1)]


def test_clips_that_cannot_be_measured_are_no_worst_clips(tmp_path, monkeypatch, caplog):
    step = SomeonesModule._step

    def nothing_is_there(self, batch, batch_idx):
        batch = batch.clone()
        batch.masks[:] = False
        step(self, batch, batch_idx, "val")

    monkeypatch.setattr(SomeonesModule, "validation_step", nothing_is_there)
    logger, _ = fit(tmp_path, visualizations(worst_clips=2), num_train=1, num_val=2)
    assert logger.moments_of("val/composites")
    assert logger.moments_of("val/worst") == []
    assert not [record for record in caplog.records if record.name.startswith("core.")]


def test_two_fits_from_step_zero_with_one_logger_share_no_key(tmp_path):
    logger = RememberingLogger()
    module = SomeonesModule(visualizations(every_n_steps=1))
    for _ in range(2):
        make_trainer(tmp_path, logger).fit(module, widening_squares(3))
    assert logger.moments_of("train") == [
        *(("train/composites", step) for step in range(3)),
        *(("train/composites_2", step) for step in range(3)),
    ]


def test_every_animation_of_a_step_has_a_key_of_its_own(tmp_path, monkeypatch):
    names = []

    def remember(loggers, key, frames, step, caption):
        names.append((key, step))
        return True

    for module in (visualizer, publisher):
        monkeypatch.setattr(module, "takes_gifs", lambda logger: True)
    monkeypatch.setattr(publisher, "log_gif", remember)
    logger = RememberingLogger()
    module = SomeonesModule(visualizations(animation=True, max_videos=3))
    for _ in range(2):
        make_trainer(tmp_path, logger).validate(
            module, widening_squares(3, batch_size=3), verbose=False
        )
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
    monkeypatch.setattr(publisher, "render_animation", None)  # to call it would be a failure
    section = visualizations(animation=True, max_frames=1)
    logger, _ = fit(tmp_path, section, num_train=1, num_val=2)
    assert logger.moments_of("val")
    assert {len(kept) for kept in frames} == {1}
    said = [record.getMessage() for record in caplog.records if record.name.startswith("core.")]
    assert said == ["visualizations: no logger accepts GIFs; animations are skipped"]


def test_animation_too_large_for_the_logger_is_said_once(tmp_path, monkeypatch, caplog):
    for module in (visualizer, publisher):
        monkeypatch.setattr(module, "takes_gifs", lambda logger: True)
    monkeypatch.setattr(publisher, "log_gif", lambda *args, **kwargs: False)
    fit(tmp_path, visualizations(animation=True, every_n_steps=1), num_train=1, num_val=3)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("core.")]
    assert said == [
        "visualizations: val/animation was not logged: SwanLab accepts at most 10 MiB; a "
        "visualizations.panel_size below 256 may help"
    ]


def test_max_videos_gives_one_sheet_per_video(tmp_path):
    config = visualizations(max_videos=3, every_n_steps=10)
    logger, _ = fit(tmp_path, config, num_train=4, batch_size=4)
    images, *_ = logger.images.values()
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
        heights[name] = next(iter(logger.images.values()))[0].shape[0]
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
    assert logger.moments_of("train") == [("train/composites", 0)]


@dataclass
class TypedConfig:
    visualizations: VisualizationsConfig


@dataclass
class OptionalConfig:
    visualizations: Optional[VisualizationsConfig] = None


ON = {**ROOM, "every_n_steps": 2}
SECTIONS = {
    "typed field": lambda: TypedConfig(VisualizationsConfig(**ON)),
    "optional field": lambda: OptionalConfig(VisualizationsConfig(**ON)),
    "plain dict": lambda: {"visualizations": dict(ON)},
    "DictConfig": lambda: OmegaConf.create({"visualizations": ON}),
    "structured DictConfig": lambda: OmegaConf.structured(TypedConfig(VisualizationsConfig(**ON))),
}


class HostWithoutConfig(SomeonesModule):
    """Has no ``config`` until a test gives it one."""

    def __init__(self):
        super().__init__(None)
        del self.config


def drawn_steps(tmp_path, module):
    logger = RememberingLogger()
    make_trainer(tmp_path, logger).fit(module, widening_squares(4))
    return [step for _, step in logger.moments_of("train")]


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize("place", ["config", "hparams", "attribute"])
def test_settings_are_found_wherever_a_host_keeps_them(place, kind, tmp_path, caplog):
    module, config = HostWithoutConfig(), SECTIONS[kind]()
    if place == "config":
        module.config = config
    elif place == "hparams":
        section = config["visualizations"] if kind == "plain dict" else config.visualizations
        module.save_hyperparameters({"visualizations": section})
    else:
        section = config["visualizations"] if kind == "plain dict" else config.visualizations
        module.visualizations = section
    assert drawn_steps(tmp_path, module) == [0, 2]
    assert "visualizations:" not in caplog.text


def test_config_goes_before_hparams_and_those_before_the_attribute(tmp_path):
    def every(n):
        return {**ROOM, "every_n_steps": n}

    module = HostWithoutConfig()
    module.visualizations = every(1)
    assert drawn_steps(tmp_path, module) == [0, 1, 2, 3]
    module = HostWithoutConfig()
    module.visualizations = every(1)
    module.save_hyperparameters({"visualizations": every(2)})
    assert drawn_steps(tmp_path, module) == [0, 2]
    module = HostWithoutConfig()
    module.save_hyperparameters({"visualizations": every(2)})
    module.config = {"visualizations": every(3)}
    assert drawn_steps(tmp_path, module) == [0, 3]


@pytest.mark.parametrize("config", [None, {}, OptionalConfig(), {"visualizations": None}])
def test_settings_that_are_nowhere_are_said_once_with_what_to_set(config, tmp_path, caplog):
    module = HostWithoutConfig()
    module.config = config
    assert drawn_steps(tmp_path, module) == []
    said = [record.getMessage() for record in caplog.records if record.name.startswith("core.")]
    assert said == [
        "visualizations: no pictures are taken: neither self.config.visualizations nor "
        "self.hparams.visualizations nor self.visualizations holds settings; set one of them, for "
        "example visualizations = VisualizationsConfig(enabled=True) in the class"
    ]


@pytest.mark.parametrize("place", ["config", "hparams"])
def test_number_of_categories_is_found_beside_the_settings(place, tmp_path):
    module = HostWithoutConfig()
    settings = {"visualizations": ON, "data": {"num_categories": 7}}
    if place == "config":
        module.config = settings
    else:
        module.save_hyperparameters(settings)
    drawn_steps(tmp_path, module)
    assert visualizer_of(module).num_categories == 7


def test_the_group_file_lists_every_setting_with_its_default():
    listed = OmegaConf.load(ROOT / "configs" / "visualizations" / "default.yaml")
    assert dict(listed) == asdict(VisualizationsConfig())


def test_names_given_to_the_hook_go_before_those_of_the_datamodule(tmp_path, caplog, written):
    class Named(SomeonesModule):
        def maybe_log_visualizations(self, *args):
            super().maybe_log_visualizations(
                *args,
                clip_name=lambda video: f"my video {video}",
                object_names=lambda video: {1: f"tool of {video}"},
            )

    logger = RememberingLogger()
    trainer = make_trainer(tmp_path, logger)
    trainer.fit(Named(visualizations(every_n_steps=10)), widening_squares(1))
    assert logger.captions["train/composites", 0][0].startswith("train · step 0 · my video 0 · ")
    assert "1 tool of 0" in written

    class SlotsNamed(SomeonesModule):
        def maybe_log_visualizations(self, *args):
            super().maybe_log_visualizations(*args, category_names=["hook"])

    written.clear()
    module = SlotsNamed(visualizations(every_n_steps=10))
    make_trainer(tmp_path, RememberingLogger()).fit(module, NamedData())
    assert "0 hook" in written
    assert any("clip 0 of train" in text for text in written)


class NamedData(pl.LightningDataModule):
    """Has names for everything."""

    category_names = ("another name",)

    def clip_name(self, stage, video):
        return f"clip {video} of {stage}"

    def train_dataloader(self):
        return widening_squares(1)


def test_a_setting_that_does_not_exist_is_named_once(tmp_path, caplog):
    logger, _ = fit(tmp_path, {"enabled": True, "every_n_step": 1}, num_train=3)
    assert not logger.images
    assert (
        caplog.text.count("unknown setting visualizations.every_n_step; choose one of enabled, ")
        == 1
    )


def test_a_module_with_pictures_can_be_copied(tmp_path):
    import copy

    _, module = fit(tmp_path, visualizations(), num_train=1)
    module.trainer = None
    twin = copy.deepcopy(module)
    assert twin.scale == module.scale
    assert visualizer_of(twin) is not visualizer_of(module)


def test_the_mixin_adds_one_public_name():
    assert {name for name in dir(VisualizationsMixin) if not name.startswith("_")} == {
        "maybe_log_visualizations"
    }


class ModuleWithNamesOfItsOwn(SomeonesModule):
    """Has attributes that are called as ours might be, and counts on them."""

    visualizations = "of its own"

    @property
    def visualizer(self):
        return "of its own"

    def __setattr__(self, name, value):
        assert name not in ("visualizer", "visualizations", "_visualizer")
        super().__setattr__(name, value)


def test_a_host_keeps_its_own_visualizer_and_visualizations(tmp_path):
    logger, module = RememberingLogger(), ModuleWithNamesOfItsOwn(visualizations(every_n_steps=1))
    make_trainer(tmp_path, logger).fit(module, widening_squares(2))
    assert logger.moments_of("train") == [("train/composites", 0), ("train/composites", 1)]
    assert module.visualizer == module.visualizations == "of its own"
    assert isinstance(visualizer_of(module), visualizer.Visualizer)
    assert "_visualizer" not in vars(module)


def test_pictures_are_no_part_of_the_checkpoint(tmp_path):
    _, module = fit(tmp_path, visualizations(), num_train=1)
    assert list(module.state_dict()) == ["scale"]
