"""When the weights are validated and which checkpoints are left, in fits of a small module."""

import pytest
import torch
from fakes import SketchModule, visualizations
from scenes import clips
from trainings import make_trainer

from core.callbacks import build_callbacks
from core.config import TrainerConfig


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
