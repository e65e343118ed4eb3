"""``python -m core.plan.probe``: real training steps of one size, and what they needed.

Reads a configuration as JSON and writes a `Measured` as JSON.
"""

import dataclasses
import json
import logging
import sys
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch

from ..callbacks import average_weights
from ..config import Config, config_of
from ..data import VideoDataModule
from ..memory import peak_memory
from ..out_of_memory import is_out_of_memory
from ..run import find_unused_parameters_in_ddp, trainer_arguments
from ..trainer import SAM2LightningModule
from .fit import Measured


class _Watch(pl.Callback):
    """Times the steps."""

    def __init__(self) -> None:
        self.seconds = list[float]()
        self._started = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def measure(config: Config) -> Measured:
    """Take steps; return what they needed, in this process."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    find_unused_parameters_in_ddp()
    module, watch = SAM2LightningModule(config), _Watch()
    callbacks: list[pl.Callback] = [watch]
    if config.trainer.ema_decay is not None:
        callbacks.append(average_weights(config.trainer.ema_decay))
    trainer = pl.Trainer(
        **trainer_arguments(config.trainer),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )
    trainer.fit(module, VideoDataModule(config.data, config.model.image_size, config.seed))
    device = trainer.strategy.root_device
    return Measured(
        peak=peak_memory(device) or 0.0,
        step_s=min(watch.seconds[1:]),
        device=device.type,
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
    )


def main() -> int:
    """Measure what is asked for on standard input."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    config = config_of(json.load(sys.stdin))
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        measured = measure(config)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        json.dump(None, out)
        return 0
    json.dump(dataclasses.asdict(measured), out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
