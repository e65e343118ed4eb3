"""Trainings of a small module to compare, bit for bit, and what is asserted about them."""

import random
import time
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from fakes import SketchModule
from scenes import clips


class KeepLosses(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].detach().clone())


@dataclass
class Training:
    """What a training leaves behind."""

    module: pl.LightningModule
    trainer: pl.Trainer
    losses: list
    random_states: list


def random_states(rng):
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        [np.asarray(part).tolist() for part in np.random.get_state()],
        rng.bit_generator.state,
    ]


def make_trainer(tmp_path, logger=False, callbacks=(), **options):
    """A trainer on the CPU that checks, saves and shows nothing by itself."""
    defaults = {
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        **{**defaults, **options},
    )


def fit(tmp_path, section, logger=False, *, spoil=None, steps=6, callbacks=(), **trainer):
    """Train the small module for `steps` steps with a validation in the middle and at the end."""
    pl.seed_everything(0, verbose=False)
    module = SketchModule(section, spoil)
    losses = KeepLosses()
    trainer.setdefault("val_check_interval", 3)
    trainer = make_trainer(tmp_path, logger, [losses, *callbacks], **trainer)
    trainer.fit(module, clips(2 * steps), clips(2, batch_size=1))
    return Training(module, trainer, losses.losses, random_states(module.rng))


def assert_same_training(one, other):
    """Weights, losses and random states are the same bit for bit, and nothing was logged twice."""
    for training in (one, other):
        assert_nothing_logged_twice(*training.trainer.loggers)
    assert len(one.losses) == len(other.losses) > 0
    assert all(torch.equal(a, b) for a, b in zip(one.losses, other.losses, strict=True))
    assert_same_weights(one.module.state_dict(), other.module.state_dict())
    assert one.random_states == other.random_states


def assert_nothing_logged_twice(*loggers):
    for logger in loggers:
        assert getattr(logger, "duplicates", []) == []


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.01)


def our_warnings(caplog):
    return [
        record
        for record in caplog.records
        if record.name.startswith("core.") and record.levelname == "WARNING"
    ]
