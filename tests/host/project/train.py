"""The host's program: ``python train.py visualizations.enabled=true``."""

import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from PIL import Image
from torch.utils.data import DataLoader

from core.config import register
from core.trainer import HostModule
from core.utils import make_batch


class FolderLogger(Logger):
    """Writes images as files, named after key, step and position."""

    name, version = "folder", "0"

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Keep no curve."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep no settings."""

    def log_image(self, key: str, images: list, step: int = 0, caption: Any = None) -> None:
        """Write each image."""
        folder = Path("pictures") / key
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            Image.fromarray(np.asarray(image)).save(folder / f"{step}_{index}.png")


@hydra.main(config_path="conf", config_name="settings", version_base=None)
def main(config: Any) -> None:
    """Train."""
    seed_everything(config.seed)
    module = HostModule(config, Path("kept"))
    batches = [make_batch(index, config.slots, config.seed) for index in range(config.steps)]
    trainer = Trainer(
        max_steps=config.steps,
        accelerator="cpu",
        logger=FolderLogger(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module, DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None)
    )
    own = module.visualizations == ["loss", "learning rate"] and module.visualizer
    print("own names:", own)
    print("own package:", sys.modules["core.config"].__file__)
    weights = sum(float(parameter.detach().double().sum()) for parameter in module.parameters())
    print(f"weights: {weights!r}")


if __name__ == "__main__":
    register()
    main()
