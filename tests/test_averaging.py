"""Averaged weights: what is validated, stored and shown, in fits of a small module."""

import dataclasses

import lightning.pytorch as pl
import pytest
import torch
from fakes import RememberingLogger, SketchModule, visualizations
from scenes import clips
from trainings import assert_same_weights, make_trainer

from core.averaging import AverageWeights
from core.callbacks import build_callbacks
from core.checks import UserError
from core.config import Config, TrainerConfig
from core.resume import check_resumable
from core.visualization import publisher

DECAY = 0.3  # reached by the warm-up after two steps


def weights_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class Watch(pl.Callback):
    """Keeps the weights after each step, and those that are validated."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.trained.append(weights_of(pl_module))

    def on_validation_batch_end(self, trainer, pl_module, *args):
        self.validated.append(weights_of(pl_module))


class Interrupted(pl.Callback):
    """Stores a checkpoint in a validation, as SLURM's requeue signal does, and is interrupted."""

    def __init__(self, path):
        self.path = path

    def on_validation_batch_end(self, trainer, *args):
        trainer.save_checkpoint(self.path)
        raise InterruptedError


def fit(tmp_path, *callbacks, logger=False, ckpt_path=None, steps=4, validate_every=2):
    pl.seed_everything(0, verbose=False)
    module = SketchModule(visualizations(enabled=bool(logger), every_n_steps=1))
    watch = Watch()
    trainer = make_trainer(
        tmp_path,
        logger,
        [*callbacks, watch],
        max_epochs=-1,
        max_steps=steps,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
    )
    trainer.fit(module, clips(16), clips(1), ckpt_path=ckpt_path, weights_only=False)
    return module, trainer, watch


def averages_of(trained):
    """Follow the documentation of `AverageWeights`, in double precision."""
    found = [{name: value.double() for name, value in trained[0].items()}]
    for n, weights in enumerate(trained[1:], 1):
        d = min(DECAY, (1 + n) / (10 + n))
        found.append({k: d * found[-1][k] + (1 - d) * v.double() for k, v in weights.items()})
    return found


def assert_close(one, other):
    for name, value in one.items():
        torch.testing.assert_close(value.double(), other[name], rtol=0, atol=1e-6)


def test_the_average_is_validated_and_stored_and_training_goes_on_from_its_own(tmp_path):
    _, _, plain = fit(tmp_path)
    module, trainer, averaged = fit(tmp_path, AverageWeights(DECAY))
    for one, other in zip(plain.trained, averaged.trained, strict=True):
        assert_same_weights(one, other)
    expected = averages_of(averaged.trained)
    assert len(averaged.validated) == 2
    assert_close(averaged.validated[0], expected[1])
    assert_close(averaged.validated[1], expected[3])
    assert not torch.equal(averaged.validated[1]["conv.weight"], plain.validated[1]["conv.weight"])

    assert_same_weights(module.state_dict(), plain.trained[-1])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert_same_weights(stored["state_dict"], averaged.validated[1])
    assert_same_weights(stored["current_model_state"], plain.trained[-1])


def test_a_checkpoint_of_an_interrupted_validation_holds_each_in_its_place(tmp_path):
    path = tmp_path / "hpc.ckpt"
    callbacks = AverageWeights(DECAY), Interrupted(path)
    pl.seed_everything(0, verbose=False)
    module = SketchModule(visualizations(enabled=False))
    watch = Watch()
    trainer = make_trainer(tmp_path, False, [*callbacks, watch], val_check_interval=2)
    with pytest.raises(InterruptedError):
        trainer.fit(module, clips(16), clips(1))
    stored = torch.load(path, weights_only=True)
    assert_same_weights(stored["current_model_state"], watch.trained[-1])
    assert_close(stored["state_dict"], averages_of(watch.trained)[-1])
    # whatever is done with the module next begins with the live weights
    assert_same_weights(module.state_dict(), watch.trained[-1])


def test_pictures_say_which_weights_they_are_of(tmp_path, monkeypatch):
    shown, draw_sheets = set(), publisher.draw_sheets

    def draw(drawn, *args):
        shown.update((clip.moment.stage, clip.moment.weights) for clip in drawn)
        return draw_sheets(drawn, *args)

    monkeypatch.setattr(publisher, "draw_sheets", draw)
    fit(tmp_path / "plain", logger=RememberingLogger(), steps=2)
    assert shown == {("train", None), ("val", None)}
    shown.clear()
    fit(tmp_path / "averaged", AverageWeights(DECAY), logger=RememberingLogger(), steps=2)
    assert shown == {("train", "live weights"), ("val", "averaged weights")}


def test_the_setting_averages_weights(tmp_path):
    for decay, expected in ((None, []), (0.9, [0.9])):
        callbacks = build_callbacks(TrainerConfig(ema_decay=decay), tmp_path, has_logger=False)
        found = [callback.decay for callback in callbacks if type(callback) is AverageWeights]
        assert found == expected
    with pytest.raises(UserError, match=r"trainer.ema_decay must be null or in \[0, 1\), got 1.0"):
        TrainerConfig(ema_decay=1.0)


def test_a_checkpoint_with_averages_is_resumed_with_them(tmp_path):
    needed = "pytorch-lightning_version epoch global_step loops state_dict optimizer_states"
    keys = [*needed.split(), "lr_schedulers", "current_model_state"]
    content = {key: {} for key in keys}
    averaged = Config(trainer=TrainerConfig(ema_decay=0.99))
    stored = {"config": dataclasses.asdict(averaged)}
    torch.save({**content, "hyper_parameters": stored}, tmp_path / "last.ckpt")
    config = Config(ckpt_path=str(tmp_path / "last.ckpt"))
    with pytest.raises(UserError, match=r"resume it with trainer\.ema_decay=0\.99"):
        check_resumable(config, torch.nn.Linear(1, 1))
