"""A small clip, outputs for it, a logger that keeps count of pictures, and short trainings."""

import lightning.pytorch as pl
import numpy as np
from host_batches import make_batch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

NUM_FRAMES, NUM_SLOTS, SIZE = 4, 2, 16


class PictureLogger(Logger):
    """Takes images and keeps their keys and steps."""

    name, version = "pictures", "0"

    def __init__(self):
        super().__init__()
        self.images = []

    def log_metrics(self, *args, **kwargs):
        pass

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_image(self, key, images, step=None, caption=None):
        self.images.append((key, step))


def some_batch():
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, 1, SIZE, SIZE, 3), np.uint8)
    return make_batch(frames, NUM_SLOTS)


def outputs_of(batch, model):
    """One output per frame; `model` makes a plane of logits per slot of a frame."""
    return [
        {"pred_masks_high_res": model(images).flatten(0, 1)[:, None]} for images in batch.img_batch
    ]


def fit(module, num_steps=2, num_val_batches=0):
    """Train and return key and step of the pictures that were logged."""
    logger = PictureLogger()
    trainer = pl.Trainer(
        max_steps=num_steps,
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    train, val = (
        DataLoader([some_batch()] * count, batch_size=None) if count else None
        for count in (num_steps, num_val_batches)
    )
    trainer.fit(module, train, val)
    assert trainer.state.finished
    return logger.images
