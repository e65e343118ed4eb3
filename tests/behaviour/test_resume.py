"""A training that goes on from a checkpoint is the training that was never interrupted."""

import re
import signal

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from fakes import RememberingLogger, visualizations
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import TrainProcess
from trainings import KeepLosses, assert_nothing_logged_twice, assert_same_weights, make_trainer

from core.averaging import AverageWeights
from core.callbacks import LastCheckpoint, build_callbacks
from core.config import (
    Config,
    DataConfig,
    LoraConfig,
    ModelConfig,
    SchedulerConfig,
    SyntheticConfig,
    TrainerConfig,
)
from core.data import VideoDataModule
from core.trainer import SAM2LightningModule

NUM_STEPS, BATCHES_PER_EPOCH = 6, 4


class StopAfter(pl.Callback):
    """Interrupts after so many steps, as a crash does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise InterruptedError


class StopInValidation(pl.Callback):
    """Stores a checkpoint in a validation, as a requeue signal does, and interrupts."""

    def __init__(self, path):
        self.path = path

    def on_validation_batch_end(self, trainer, *args):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


class RememberLearningRates(pl.Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def train(
    tmp_path,
    *,
    ckpt_path=None,
    stop_after=None,
    num_workers=0,
    validate_every=2,
    seed=0,
    lora=None,
    scheduler=None,
    steps=NUM_STEPS,
    accumulate=1,
    more=(),
):
    """Train over two epochs, the second one cut short; a checkpoint after every step."""
    config = Config(
        model=ModelConfig(
            image_size=64,
            prompt_type="point",
            num_correction_points=1,
            lora=lora or LoraConfig(),
        ),
        data=DataConfig(
            num_frames=2,
            batch_size=1,
            val_batch_size=1,
            num_workers=num_workers,
            synthetic=SyntheticConfig(
                num_train_clips=BATCHES_PER_EPOCH, num_val_clips=1, max_objects=2
            ),
        ),
        scheduler=scheduler or SchedulerConfig(name="cosine"),
        visualizations=visualizations(),
    )
    pl.seed_everything(seed, workers=True, verbose=False)
    module = SAM2LightningModule(config)
    logger, losses, rates = RememberingLogger(), KeepLosses(), RememberLearningRates()
    checkpoints = ModelCheckpoint(
        tmp_path / "checkpoints",
        "step{step}",
        every_n_train_steps=1,
        save_top_k=-1,
        auto_insert_metric_name=False,
    )
    callbacks = [losses, rates, checkpoints, *more]
    if stop_after is not None:
        callbacks.append(StopAfter(stop_after))
    trainer = make_trainer(
        tmp_path,
        logger,
        callbacks,
        max_epochs=None,
        max_steps=steps,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        enable_checkpointing=True,
        use_distributed_sampler=False,
        accumulate_grad_batches=accumulate,
    )
    data = VideoDataModule(config.data, 64, seed=0)
    if stop_after is None:
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=False)
    else:
        with pytest.raises(InterruptedError):
            trainer.fit(module, data, weights_only=False)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return module, logger, losses.losses, rates.rates


def check_resumed(tmp_path, step, **options):
    whole, whole_logger, whole_losses, whole_rates = train(tmp_path / "whole", **options)
    _, logger_before, losses_before, rates_before = train(
        tmp_path / "parts", stop_after=step + 1, **options
    )
    # One step more than the checkpoint had been made, and another seed.
    after, logger_after, losses_after, rates_after = train(
        tmp_path / "parts",
        ckpt_path=str(tmp_path / "parts" / "checkpoints" / f"step{step}.ckpt"),
        seed=1,
        **options,
    )
    assert len(losses_after) == NUM_STEPS - step
    losses = losses_before[:step] + losses_after
    assert all(torch.equal(a, b) for a, b in zip(losses, whole_losses, strict=True))
    assert rates_before[:step] + rates_after == whole_rates
    assert_same_weights(after.state_dict(), whole.state_dict())
    for one, other in zip(
        after.optimizers().state_dict()["state"].values(),
        whole.optimizers().state_dict()["state"].values(),
        strict=True,
    ):
        assert_same_weights(one, other)
    check_validations(after, whole, step)
    assert logger_after.steps() == list(range(step, NUM_STEPS))
    assert_nothing_logged_twice(whole_logger, logger_before, logger_after)
    return logger_before, logger_after, whole_logger


def check_validations(after, whole, step):
    """The doctor and the baseline know of every validation that the checkpoint was made after."""
    before = [each for each in whole.doctor.history if each.step < step]
    assert after.doctor.history[: len(before)] == before
    # Lightning leaves out the validation at whose step it resumes.
    known = [(each.step, each.iou) for each in whole.doctor.history if each.step != step]
    assert [(each.step, each.iou) for each in after.doctor.history] == known
    if before:
        assert after.baseline == whole.baseline


@pytest.mark.parametrize(
    ("step", "num_workers"),
    [
        pytest.param(
            3, 0, marks=[pytest.mark.slow, pytest.mark.long]
        ),  # in an epoch, between validations
        (4, 2),  # at the end of one, before its validation
        pytest.param(2, 0, marks=pytest.mark.slow),  # just before a validation
        pytest.param(4, 0, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(3, 2, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(5, 2, marks=pytest.mark.slow),
    ],
)
def test_resumed_training_is_the_uninterrupted_one(step, num_workers, tmp_path):
    check_resumed(tmp_path, step, num_workers=num_workers)


@pytest.mark.slow
def test_a_resumed_training_of_adapters_is_the_uninterrupted_one(tmp_path):
    check_resumed(tmp_path, 3, lora=LoraConfig(rank=2, dropout=0.1))


@pytest.mark.slow
def test_averaged_weights_leave_an_extended_and_an_interrupted_training_what_it_was(tmp_path):
    def run(name, **options):
        more = [AverageWeights(0.5), *options.pop("more", [])]
        # A schedule that does not depend on how long the training was meant to be.
        scheduler = SchedulerConfig(name="constant", warmup_fraction=0)
        return train(tmp_path / name, more=more, scheduler=scheduler, **options)[0].state_dict()

    whole = run("whole")
    run("first", steps=3)
    assert_same_weights(run("extended", ckpt_path=tmp_path / "first" / "last.ckpt"), whole)
    path = tmp_path / "hpc.ckpt"
    run("interrupted", stop_after=0, more=[StopInValidation(path)])
    assert_same_weights(run("resumed", ckpt_path=path, seed=1), whole)
    stored = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=False)["state_dict"]
        for name in ("whole", "extended", "resumed")
    ]
    assert_same_weights(stored[0], stored[1])
    assert_same_weights(stored[0], stored[2])


def test_accumulated_gradients_are_not_lost(tmp_path):
    """Two batches make a step, and the third batch, which is validated, lies amid one."""

    def run(name, **options):
        folder = tmp_path / name
        callbacks = build_callbacks(
            TrainerConfig(enable_progress_bar=False), folder / "run", has_logger=False
        )
        last = [callback for callback in callbacks if isinstance(callback, LastCheckpoint)]
        options |= {"steps": 4, "accumulate": 2, "validate_every": 3, "more": last}
        return train(folder, **options)[0].state_dict()

    whole = run("whole")
    run("first", stop_after=3)
    last = tmp_path / "first" / "run" / "last.ckpt"
    assert_same_weights(run("resumed", ckpt_path=str(last)), whole)


def test_no_picture_is_logged_twice(tmp_path):
    before, after, whole = check_resumed(tmp_path, 3, validate_every=3)
    kept = {moment for moment in before.images if moment[1] < 3}
    assert not kept & set(after.images)
    train_pictures = {m for m in kept | set(after.images) if m[0].startswith("train")}
    assert train_pictures == {m for m in whole.images if m[0].startswith("train")}


def test_checkpoint_holds_every_random_state(tmp_path):
    train(tmp_path, stop_after=2)
    path = tmp_path / "checkpoints" / "step1.ckpt"
    (states,) = torch.load(path, weights_only=False)["random_states"]
    assert set(states) == {"python", "numpy", "torch", "cuda", "model"}


def test_training_does_not_depend_on_when_it_is_validated(tmp_path):
    often, _, often_losses, _ = train(tmp_path / "often", validate_every=1)
    never, _, never_losses, _ = train(tmp_path / "never", validate_every=100)
    assert all(torch.equal(a, b) for a, b in zip(often_losses, never_losses, strict=True))
    assert_same_weights(often.state_dict(), never.state_dict())


def test_iterating_loaders_leaves_the_global_generators_alone():
    data = VideoDataModule(
        DataConfig(num_frames=2, num_workers=2, synthetic=SyntheticConfig(num_train_clips=4)), 64, 0
    )
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for _ in range(2):
            assert len(list(loader)) > 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.slow
@pytest.mark.long
def test_train_py_goes_on_where_it_was(tmp_path):
    options = (
        "scheduler=constant",
        "scheduler.warmup_fraction=0",
        "model.prompt_type=point",
        "trainer.ema_decay=0.5",
    )
    whole = TrainProcess(tmp_path / "whole", *options, "trainer.max_steps=6")
    assert whole.end() == 0, whole.output
    first = TrainProcess(tmp_path / "first", *options, "trainer.max_steps=3")
    assert first.end() == 0, first.output
    checkpoint = first.run_dir / "checkpoints" / "last.ckpt"
    second = TrainProcess(
        tmp_path / "second", *options, "trainer.max_steps=6", f"ckpt_path={checkpoint}"
    )
    assert second.end() == 0, second.output
    assert_same_weights(second.last_weights(), whole.last_weights())
    assert "nothing was trained" not in first.output + second.output
    third = TrainProcess(
        tmp_path / "third", *options, "trainer.max_steps=3", f"ckpt_path={checkpoint}"
    )
    assert third.end() == 0, third.output
    assert "the resumed checkpoint is already at step 3" in third.output


@pytest.mark.slow
@pytest.mark.long
def test_train_py_goes_on_after_sigterm(tmp_path):
    options = ("model.prompt_type=point", "trainer.max_steps=30", "trainer.val_check_interval=5")
    whole = TrainProcess(tmp_path / "whole", *options)
    assert whole.end() == 0, whole.output
    first = TrainProcess(tmp_path / "first", *options)
    first.wait_for("picture taken", 10)
    first.send(signal.SIGTERM)
    assert first.end() == 143, first.output
    checkpoint = first.run_dir / "checkpoints" / "last.ckpt"
    second = TrainProcess(tmp_path / "second", *options, f"ckpt_path={checkpoint}")
    assert second.end() == 0, second.output
    assert re.search(r"Restored all states", second.output)
    assert_same_weights(second.last_weights(), whole.last_weights())
