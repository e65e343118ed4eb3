"""Training is bit for bit the same with visualisation off, on, and failing at every event."""

import lightning.pytorch as pl
import pytest
from fakes import RememberingLogger, visualizations
from trainings import KeepLosses, Training, assert_same_training, make_trainer, random_states

from core.config import Config, DataConfig, ModelConfig, SyntheticConfig, VisualizationsConfig
from core.data import VideoDataModule
from core.trainer import SAM2LightningModule
from core.visualization import limits

OFF = VisualizationsConfig()
NUM_BATCHES = 4


def train(tmp_path, section, logger, prompt_type="mixed", accumulate=1, num_workers=0):
    config = Config(
        model=ModelConfig(image_size=64, prompt_type=prompt_type, num_correction_points=1),
        data=DataConfig(
            num_frames=2,
            batch_size=1,
            val_batch_size=1,
            num_workers=num_workers,
            synthetic=SyntheticConfig(num_train_clips=8, num_val_clips=2, max_objects=2),
        ),
        visualizations=section,
    )
    pl.seed_everything(0, workers=True, verbose=False)
    module = SAM2LightningModule(config)
    losses = KeepLosses()
    trainer = make_trainer(
        tmp_path,
        logger,
        [losses],
        limit_train_batches=NUM_BATCHES,
        limit_val_batches=1,
        val_check_interval=2,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
    )
    trainer.fit(module, VideoDataModule(config.data, 64, seed=0))
    return Training(module, trainer, losses.losses, random_states(module.model.rng))


def check_off_on_and_failing(tmp_path, monkeypatch, faults, **options):
    """Compare trainings without pictures, with them, and with a fault at every event."""
    off = train(tmp_path, OFF, RememberingLogger(), **options)
    logger = RememberingLogger()
    on = train(tmp_path, visualizations(worst_clips=1, max_videos=2), logger, **options)
    num_steps = NUM_BATCHES // options.get("accumulate", 1)
    assert logger.steps() == list(range(num_steps))
    assert logger.steps("val")
    assert_same_training(on, off)

    monkeypatch.setattr(limits, "MAX_FAILURES_IN_A_ROW", 10**6)
    for fault in faults:
        calls = []

        def fail(*args, calls=calls, **kwargs):
            calls.append(args)
            raise RuntimeError("injected")

        with monkeypatch.context() as patch:
            patch.setattr(f"core.visualization.{fault}", fail)
            failing = train(tmp_path, visualizations(worst_clips=1), RememberingLogger(), **options)
        assert len(calls) > num_steps
        assert_same_training(failing, off)


FAULTS = ("visualizer.take_snapshot", "publisher.draw_sheets", "publisher.log_images")


@pytest.mark.parametrize(
    ("prompt_type", "accumulate", "fault"),
    [
        pytest.param("mask", 2, "publisher.draw_sheets", marks=pytest.mark.long),
        pytest.param("point", 1, "publisher.log_images", marks=pytest.mark.long),
        ("bbox", 2, "visualizer.take_snapshot"),
        ("mixed", 1, "publisher.draw_sheets"),
    ],
)
def test_training_is_the_same_with_pictures_and_with_a_fault(
    prompt_type, accumulate, fault, tmp_path, monkeypatch
):
    check_off_on_and_failing(
        tmp_path, monkeypatch, [fault], prompt_type=prompt_type, accumulate=accumulate
    )


def test_training_with_workers_is_the_same(tmp_path, monkeypatch):
    check_off_on_and_failing(tmp_path, monkeypatch, [], num_workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.long), 2])
@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.parametrize(
    "prompt_type",
    [
        pytest.param("point", marks=pytest.mark.long),
        pytest.param("bbox", marks=pytest.mark.long),
        pytest.param("mask", marks=pytest.mark.long),
        "mixed",
    ],
)
def test_training_is_the_same_with_every_fault(
    prompt_type, accumulate, num_workers, tmp_path, monkeypatch
):
    check_off_on_and_failing(
        tmp_path,
        monkeypatch,
        FAULTS,
        prompt_type=prompt_type,
        accumulate=accumulate,
        num_workers=num_workers,
    )
