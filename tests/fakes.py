"""Loggers and modules that stand for the real ones."""

import random
import threading
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from core.config import VisualizationsConfig
from core.trainer import VisualizationsMixin
from core.visualization import visualizer_of
from core.visualization.images import encode_png
from core.visualization.visualizer import Visualizer

# Every event is drawn: there is room for all, and no time is saved. Toys train faster than any
# drawing.
ROOM = {"enabled": True, "max_pending": 100, "max_overhead": 1.0}


def visualizations(**fields) -> VisualizationsConfig:
    """A small picture of every step."""
    defaults = {**ROOM, "every_n_steps": 1, "max_frames": 1, "panel_size": 64}
    return VisualizationsConfig(**{**defaults, **fields})


class RememberingLogger(Logger):
    """Takes images and keeps them; `fault(key, step)` is called first and may raise or wait.

    `images` and `captions` are found by (key, step); `moments` and `metrics` are in the order in
    which they came. `duplicates` are the (key, step) that came again, which a dashboard would have
    dropped: to raise here would be one more fault of the logger, which training survives.
    """

    name, version = "remembering", "0"

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault
        self.images, self.captions, self.scalars = {}, {}, {}
        self.moments, self.metrics, self.duplicates = [], [], []
        self._seen = set()

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))
        self.scalars.update(metrics)
        for key in metrics:
            if key != "epoch":  # Lightning's own, with everything that it logs
                self._remember(key, step)

    def log_image(self, key, images, step=None, caption=None):
        if self.fault is not None:
            self.fault(key, step)
        self._remember(key, step)
        self.moments.append((key, step))
        self.images[key, step] = images
        self.captions[key, step] = caption

    def _remember(self, key, step):
        if (key, step) in self._seen:
            self.duplicates.append((key, step))
        self._seen.add((key, step))

    def steps(self, stage="train"):
        return sorted(step for key, step in self.images if key.startswith(f"{stage}/composites"))

    def moments_of(self, prefix):
        """(key, step) of the images whose key starts with `prefix`, each time that one came."""
        return [(key, step) for key, step in self.moments if key.startswith(prefix)]


class WaitingLogger(RememberingLogger):
    """Takes images while it is `open`; `entered` is set as soon as one comes."""

    def __init__(self):
        super().__init__(self._wait)
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()

    def _wait(self, key, step):
        self.entered.set()
        assert self.open.wait(60)


class DiscardingLogger:
    """Takes what a logger takes and keeps nothing; encodes pictures as ours for SwanLab are."""

    def __init__(self) -> None:
        self.drawn = threading.Semaphore(0)

    def log_image(self, key: str, images: list, step: int, caption: list[str]) -> None:
        """Encode and forget."""
        for image in images:
            encode_png(image)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Forget; what an event cost is logged when its pictures are."""
        self.drawn.release()


class HookedModule(VisualizationsMixin):
    """The mixin on a module that does nothing else; by default every event is due.

    Args:
        logger: Where pictures go.
        **options: Fields of `VisualizationsConfig`.
    """

    def __init__(self, logger: Any, **options: Any) -> None:
        options = {"enabled": True, "every_n_steps": 1, **options}
        self.config = SimpleNamespace(visualizations=VisualizationsConfig(**options))
        self.trainer = SimpleNamespace(
            is_global_zero=True,
            sanity_checking=False,
            global_step=0,
            current_epoch=0,
            loggers=[logger],
            callbacks=[],
            datamodule=None,
        )

    @property
    def visualizer(self) -> Visualizer:
        """What draws for this module."""
        return visualizer_of(self)

    def event(self, step: int, scene: tuple, stage: str = "train", batch_idx: int = 0) -> None:
        """Call the hook with a batch and its outputs."""
        self.trainer.global_step = step
        self.maybe_log_visualizations(*scene, batch_idx, stage)

    def next_event(self, scene: tuple) -> None:
        """Call the hook at the next step."""
        self.event(self.trainer.global_step + 1, scene)

    def wait(self) -> None:
        """Wait for the last event's pictures; the worker is then as it is before the next event.

        The logger must have a semaphore `drawn`, as `DiscardingLogger` has.
        """
        assert self.trainer.loggers[0].drawn.acquire(timeout=600), "nothing was drawn"


class SketchModule(VisualizationsMixin, pl.LightningModule):
    """One convolution whose outputs look like SAM 2's and which draws from every generator.

    Args:
        visualizations: Section of the configuration.
        spoil: ``spoil(batch, outs, step)`` returns what the hook gets instead.
    """

    def __init__(self, visualizations, spoil=None):
        super().__init__()
        self.config = SimpleNamespace(visualizations=visualizations)
        self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.rng = np.random.default_rng(0)
        self.spoil = spoil

    def step(self, batch, batch_idx, stage):
        rows = batch.obj_to_frame_idx[0, :, 1]
        outs, loss = [], 0.0
        for t, masks in enumerate(batch.masks):
            noise = torch.randn(()) + random.random() + np.random.rand() + self.rng.random()
            logits = self.conv(batch.img_batch[t])[rows] + float(noise)
            outs.append(outputs_of(logits, masks, t))
            loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], masks.float()
            )
        shown = (batch, outs)
        if self.spoil is not None and stage == "train":
            shown = self.spoil(batch, [dict(out) for out in outs], self.global_step)
        self.maybe_log_visualizations(*shown, batch_idx, stage)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, batch_idx, "train")

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch, batch_idx, "val"), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class SomeonesModule(VisualizationsMixin, pl.LightningModule):
    """A module of someone's own: one weight, and logits that follow the ground truth.

    Args:
        visualizations: Section of the configuration.
    """

    def __init__(self, visualizations):
        super().__init__()
        self.config = SimpleNamespace(visualizations=visualizations)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def _step(self, batch, batch_idx, stage):
        outs = []
        for t, masks in enumerate(batch.masks):
            logits = self.scale * (masks[:, None].float() - 0.5)
            outs.append(outputs_of(logits, masks, t))
        self.maybe_log_visualizations(batch, outs, batch_idx, stage)
        return sum(out["pred_masks_high_res"].mean() for out in outs)

    def training_step(self, batch, batch_idx):
        loss = self._step(batch, batch_idx, "train")
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self._step(batch, batch_idx, "val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def outputs_of(logits, masks, t):
    """Outputs of a frame as SAM 2's are; the first one was prompted with its ground truth."""
    mask_inputs = masks[:, None] if t == 0 else None
    return {"pred_masks_high_res": logits, "point_inputs": None, "mask_inputs": mask_inputs}
