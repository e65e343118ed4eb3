"""When the weights are validated and which checkpoints are left, in fits of a small module."""

import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from fakes import SketchModule, visualizations
from lightning.pytorch.callbacks import ModelCheckpoint
from scenes import clips
from trainings import make_trainer, our_warnings

from core.callbacks import build_callbacks
from core.config import TrainerConfig
from core.run import trainer_arguments


class Worse(SketchModule):
    """Each validation is worse than the one before; remembers the steps of all of them."""

    def __init__(self):
        super().__init__(visualizations(enabled=False))
        self.validated = []

    def on_validation_epoch_end(self):
        self.validated.append(self.trainer.global_step)
        self.log("val/iou", 1.0 / len(self.validated))


def fit(tmp_path, num_batches, *, own=None, **trainer):
    """Fit for epochs of `num_batches` steps; return the module and the trainer."""
    module = Worse()
    config = TrainerConfig(**{"enable_progress_bar": False, **(own or {})})
    trainer = make_trainer(
        tmp_path,
        False,
        build_callbacks(config, tmp_path / "checkpoints", has_logger=False),
        enable_checkpointing=True,
        **trainer,
    )
    trainer.fit(module, clips(2 * num_batches), clips(2))
    return module, trainer


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 5, "val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 5]),
        ({"max_steps": 6, "val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6]),
        # Epochs of 4 batches under the default interval of 100 batches.
        ({"max_epochs": 2, "val_check_interval": 100, "check_val_every_n_epoch": None}, [8]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12]),
        ({"max_epochs": 2, "check_val_every_n_epoch": 1}, [4, 8]),
        ({"max_steps": 6, "check_val_every_n_epoch": 1}, [4, 6]),
        ({"max_steps": 3, "accumulate_grad_batches": 2, "check_val_every_n_epoch": 1}, [2, 3]),
    ],
)
def test_the_weights_of_the_last_step_are_validated_once(options, steps, tmp_path):
    module, trainer = fit(tmp_path, 4, **{"max_epochs": -1, **options})
    assert module.validated == steps
    assert trainer.checkpoint_callback.best_model_path.endswith(f"best-step{steps[0]}.ckpt")


@pytest.mark.parametrize("every_n_steps", [None, 2, 3])
def test_last_ckpt_is_the_newest_and_has_no_double(every_n_steps, tmp_path):
    fit(
        tmp_path,
        8,
        own={"checkpoint_every_n_steps": every_n_steps},
        max_steps=6,
        max_epochs=-1,
        val_check_interval=3,
        check_val_every_n_epoch=None,
    )
    files = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert files == ["best-step3.ckpt", "last.ckpt"]
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["global_step"] == 6


def test_last_ckpt_is_written_between_validations(tmp_path):
    class StopAfterFive(Worse):
        def training_step(self, batch, batch_idx):
            if self.global_step == 5:
                raise InterruptedError("stopped")
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(
        tmp_path,
        False,
        build_callbacks(
            TrainerConfig(checkpoint_every_n_steps=2, enable_progress_bar=False),
            tmp_path,
            has_logger=False,
        ),
        enable_checkpointing=True,
        val_check_interval=3,
    )
    with pytest.raises(InterruptedError, match="stopped"):
        trainer.fit(StopAfterFive(), clips(16), clips(2))
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["global_step"] == 4


class Scored(SketchModule):
    """Validates with given values of ``val/iou``, one after the other."""

    def __init__(self, *scores):
        super().__init__(visualizations(enabled=False))
        self.scores = list(scores)

    def on_validation_epoch_end(self):
        self.log("val/iou", self.scores.pop(0))


def fit_scored(folder, *scores, steps, ckpt_path=None):
    """Validate after every second step up to `steps`; return the best path and score."""
    trainer = make_trainer(
        folder,
        False,
        build_callbacks(TrainerConfig(enable_progress_bar=False), folder, has_logger=False),
        enable_checkpointing=True,
        max_epochs=-1,
        max_steps=steps,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    trainer.fit(Scored(*scores), clips(32), clips(2), ckpt_path=ckpt_path, weights_only=False)
    best = trainer.checkpoint_callback
    return Path(best.best_model_path), float(best.best_model_score)


@pytest.mark.parametrize(
    ("later", "folder", "step", "score"),
    [([0.5, 0.6], "first", 2, 0.8), ([0.5, 0.9], "again", 8, 0.9)],
)
def test_the_best_of_the_whole_training_counts_after_it_was_resumed_elsewhere(
    tmp_path, later, folder, step, score
):
    first = fit_scored(tmp_path / "first", 0.8, 0.7, steps=4)
    assert first == (tmp_path / "first" / "best-step2.ckpt", pytest.approx(0.8))
    last = tmp_path / "first" / "last.ckpt"
    best = fit_scored(tmp_path / "again", *later, steps=8, ckpt_path=last)
    assert best == (tmp_path / folder / f"best-step{step}.ckpt", pytest.approx(score))
    assert best[0].is_file()
    assert first[0].is_file()  # another run's files stay as they are


def test_the_best_is_found_beside_the_checkpoint_in_a_folder_that_was_moved(tmp_path, caplog):
    fit_scored(tmp_path / "first", 0.8, 0.7, steps=4)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    last = tmp_path / "moved" / "last.ckpt"
    best = fit_scored(tmp_path / "again", 0.6, steps=6, ckpt_path=last)
    assert best == (tmp_path / "moved" / "best-step2.ckpt", pytest.approx(0.8))
    assert not our_warnings(caplog)


def test_where_the_best_is_gone_the_best_from_then_on_counts(tmp_path, caplog):
    gone, _ = fit_scored(tmp_path / "first", 0.8, 0.7, steps=4)
    gone.unlink()
    last = tmp_path / "first" / "last.ckpt"
    best = fit_scored(tmp_path / "again", 0.6, 0.5, steps=8, ckpt_path=last)
    assert best == (tmp_path / "again" / "best-step6.ckpt", pytest.approx(0.6))
    (said,) = our_warnings(caplog)
    assert said.getMessage() == (
        f"{gone}, the best checkpoint so far, does not exist any more: the best one from now on "
        "counts"
    )


def test_checkpoints_of_lightnings_own_callback_are_taken_over(tmp_path):
    """As runs wrote them before the best of another folder counted."""
    fit_scored(tmp_path / "first", 0.8, 0.7, steps=4)
    states = torch.load(tmp_path / "first" / "last.ckpt", weights_only=False)["callbacks"]
    own = ModelCheckpoint(monitor="val/iou", mode="max")
    assert Path(states[own.state_key]["best_model_path"]).name == "best-step2.ckpt"


# Four batches make a step. An epoch has ten, whose last two make one too.
@pytest.mark.parametrize(("validate_every", "every_n_steps"), [(3, None), (3, 1), (100, 2)])
def test_last_ckpt_is_written_at_the_end_of_a_step(
    tmp_path, monkeypatch, validate_every, every_n_steps
):
    written, save = [], pl.Trainer.save_checkpoint

    def watched(trainer, path, *args):
        if Path(path).name == "last.ckpt":
            written.append(trainer.lightning_module.num_batches)
        save(trainer, path, *args)

    class Counted(Worse):
        def on_train_batch_start(self, batch, batch_idx):
            self.num_batches = batch_idx + 1

    def train(steps, ckpt_path=None):
        own = TrainerConfig(enable_progress_bar=False, checkpoint_every_n_steps=every_n_steps)
        trainer = make_trainer(
            tmp_path,
            False,
            build_callbacks(own, tmp_path, has_logger=False),
            enable_checkpointing=True,
            accumulate_grad_batches=4,
            max_epochs=-1,
            max_steps=steps,
            val_check_interval=validate_every,
            check_val_every_n_epoch=None,
        )
        trainer.fit(Counted(), clips(20), clips(2), ckpt_path=ckpt_path, weights_only=False)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", watched)
    train(2)
    train(6, tmp_path / "last.ckpt")
    assert len(written) >= 3
    assert set(written) <= {4, 8, 10}


def test_a_largest_norm_of_0_is_no_limit(tmp_path):
    """As the setting says: gradients that were clipped to 0 would train nothing."""
    weights = {}
    for norm in (None, 0, 1e-3):
        pl.seed_everything(0, verbose=False)
        clip = trainer_arguments(TrainerConfig(gradient_clip_val=norm))["gradient_clip_val"]
        module, _ = fit(tmp_path / str(norm), 2, gradient_clip_val=clip, max_epochs=1)
        weights[norm] = module.conv.weight
    assert torch.equal(weights[0], weights[None])
    assert not torch.equal(weights[1e-3], weights[None])
