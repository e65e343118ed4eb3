"""Averaged weights: training goes on from its own, validation and export take their average.

Needs Lightning 2.6, whose callback this one builds on.
"""

from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging

LIVE, AVERAGED = "live weights", "averaged weights"


class AverageWeights(WeightAveraging):
    """Keeps an exponential moving average of the weights and validates it in their place.

    The first optimizer step begins the average with the weights that it leaves. The n-th step after
    it makes it ``d * average + (1 - d) * weights`` with d = min(decay, (1 + n) / (10 + n)), the
    warm-up of TensorFlow's ``ExponentialMovingAverage``. Frozen weights stay as they are. A step
    that is left out for lack of memory counts as one that changed nothing.

    A checkpoint holds the average as ``state_dict``, which is what exports and
    ``load_from_checkpoint`` read, and the live weights as ``current_model_state``, from which a
    resumed training goes on. Lightning's own callback overwrites the live weights at the end of a
    training, and takes the two for each other in a checkpoint that is written while it validates.

    ``weights_in_use`` of the module says which weights it has.

    Args:
        decay: At least 0, below 1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the weights to where training will have them: the module is not there yet."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        self._swapped = False
        if stage == "fit" and self._average_model is not None:
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()
            _tell(pl_module, LIVE)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Take the weights of a step into the average.

        Not with the average's own ``update_parameters``, which copies a number to the device and
        waits for it.
        """
        if trainer.global_step <= self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        average = self._average_model
        assert average is not None
        averages, weights = (
            [weight.detach() for weight in module.parameters()]
            for module in (average.module, pl_module)
        )
        num = int(average.n_averaged)
        if num == 0:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_lerp_(averages, weights, 1 - min(self.decay, (1 + num) / (10 + num)))
        for buffer, live in zip(average.module.buffers(), pl_module.buffers(), strict=True):
            buffer.copy_(live)
        average.n_averaged += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        self._swap(pl_module, True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the live weights."""
        self._swap(pl_module, False)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the live weights in a module that was interrupted while it was validated."""
        self._swap(pl_module, False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the live weights where they are, for a training that is extended."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as the weights, and the live weights beside them."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            live, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, live

    def _swap(self, module: pl.LightningModule, validating: bool) -> None:
        if self._average_model is not None and self._swapped != validating:
            self._swap_models(module)
            self._swapped = validating
            _tell(module, AVERAGED if validating else LIVE)


def _tell(module: pl.LightningModule, weights: Optional[str]) -> None:
    module.weights_in_use = weights  # type: ignore[assignment]
