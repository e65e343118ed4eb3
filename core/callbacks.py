"""What happens around training besides the pictures: checkpoints, stopping, the last validation."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)

from core.config import TrainerConfig


class ValidateLastStep(Callback):
    """Validates the final weights, also where ``val_check_interval`` would not."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Ask Lightning to stop after the last batch: it validates before it does."""
        last_step = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        max_epochs = trainer.max_epochs
        last_epoch = max_epochs not in (None, -1) and trainer.current_epoch + 1 >= max_epochs
        if last_step or (last_epoch and trainer.is_last_batch):
            trainer.should_stop = True
            if (trainer.check_val_every_n_epoch or 1) > 1:
                trainer.check_val_every_n_epoch = None  # it may end between two of those epochs


def build_callbacks(
    config: TrainerConfig, checkpoint_dir: Path, has_logger: bool
) -> list[Callback]:
    """Return checkpoints (best by ``val/iou``, and last), the LR monitor and early stopping.

    Args:
        config: The trainer section.
        checkpoint_dir: Where ``best-step*.ckpt`` and ``last.ckpt`` go.
        has_logger: Whether anything takes the learning rate.
    """
    # Without versions: a file left by an earlier start in the same folder is replaced, so that
    # last.ckpt is always the newest. ModelCheckpoint's own `save_last` would leave it alone when
    # a validation brought no better `val/iou`.
    callbacks: list[Callback] = [
        ValidateLastStep(),
        ModelCheckpoint(
            checkpoint_dir,
            filename="best-step{step}",
            monitor="val/iou",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        ),
        ModelCheckpoint(checkpoint_dir, filename="last", enable_version_counter=False),
    ]
    if config.checkpoint_every_n_steps is not None:
        callbacks.append(
            ModelCheckpoint(
                checkpoint_dir,
                filename="last",
                every_n_train_steps=config.checkpoint_every_n_steps,
                enable_version_counter=False,
            )
        )
    if has_logger:
        callbacks.append(LearningRateMonitor("step"))
    if config.early_stopping_patience is not None:
        callbacks.append(
            EarlyStopping("val/iou", mode="max", patience=config.early_stopping_patience)
        )
    return callbacks
