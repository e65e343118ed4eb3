"""The host's module: merges what its model says of components into one mask per category."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from sam2_viz.visualization import VisualizationsMixin

from core.utils import Batch, find_components, make_prompts


class HostModule(VisualizationsMixin, LightningModule):
    """One convolution in SAM 2's place; has a `visualizer` and `visualizations` of its own.

    Args:
        config: The host's settings.
        kept: Where batches and outputs are written, for whoever compares them with the pictures.
    """

    def __init__(self, config: Any, kept: Path) -> None:
        super().__init__()
        self.config = config
        self.kept = kept
        self.visualizations = ["loss", "learning rate"]
        self.conv = torch.nn.Conv2d(3, config.slots, 3, padding=1)

    @property
    def visualizer(self) -> str:
        """What draws the host's own curves."""
        return "the host's own"

    def forward(self, batch: Batch) -> tuple[list[dict[str, Any]], list[int]]:
        """Return one output per frame, and the mask row of each component."""
        parts, obj_to_cat = find_components(batch.masks[0].cpu().numpy())
        outs = []
        for t, images in enumerate(batch.img_batch):
            prompts = make_prompts(parts, batch.kind if t == 0 else None)
            logits = self.conv(images).flatten(0, 1)[:, None]
            outs.append({"pred_masks_high_res": logits, **prompts})
        return outs, obj_to_cat

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch."""
        return self._step(batch, batch_idx, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of one batch."""
        self.log("val_loss", self._step(batch, batch_idx, "val"), batch_size=1)

    def _step(self, batch: Batch, batch_idx: int, stage: str) -> torch.Tensor:
        outs, obj_to_cat = self(batch)
        self.maybe_log_visualizations(batch, outs, batch_idx, stage, obj_to_cat=obj_to_cat)
        if self.kept.is_dir():
            shown = {"batch": batch, "outs": outs, "obj_to_cat": obj_to_cat}
            torch.save(shown, self.kept / f"{stage}_{self.global_step}.pt")
        logits = torch.stack([out["pred_masks_high_res"][:, 0] for out in outs])
        return F.binary_cross_entropy_with_logits(logits, batch.masks.float())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.01)
