"""What every program takes that tracks whole videos."""

from dataclasses import dataclass
from typing import Optional

from ..checks import A_PATH, setting
from ..config import Config


@dataclass
class TrackingConfig(Config):
    """The settings of a training, and the weights to track with."""

    weights: Optional[str] = setting(
        None,
        A_PATH,
        "a run's folder (its best weights and its settings), a .ckpt or .pt, a folder of "
        "Hugging Face's or hf:OWNER/NAME[@REVISION] of its hub, or a file of adapters",
    )
    base: Optional[str] = setting(
        None,
        A_PATH,
        "the weights that a file of adapters belongs to; null: those that its run started from, or "
        "the file of their name beside it",
    )
