"""The host's settings: its dataclass comes last in the defaults and overrides every group file."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from sam2_viz.visualization import VisualizationsConfig


@dataclass
class Settings:
    """What the host trains, and when pictures are taken.

    Attributes:
        defaults: Group files, then this class.
        steps: Optimizer steps.
        slots: Mask slots per video, one per category.
        seed: Of data and weights.
        visualizations: Section of the mixin.
    """

    defaults: list[Any] = field(default_factory=lambda: [{"visualizations": "quiet"}, "_self_"])
    steps: int = 6
    slots: int = 4
    seed: int = 7
    visualizations: VisualizationsConfig = field(default_factory=VisualizationsConfig)


def register() -> None:
    """Store the settings under the name that the program asks for."""
    ConfigStore.instance().store(name="settings", node=Settings)
