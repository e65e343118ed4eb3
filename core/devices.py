"""Which accelerators are here, and which device a program without Lightning's Trainer takes."""

from collections.abc import Mapping
from importlib.util import find_spec

import torch

from .checks import UserError, one_of, require
from .config import TrainerConfig


def accelerators() -> dict[str, bool]:
    """Return the names that ``trainer.accelerator`` may have, and whether they are available."""
    cuda, mps = torch.cuda.device_count() > 0, torch.backends.mps.is_available()
    return {
        "auto": True,
        "cpu": True,
        "gpu": cuda or mps,
        "cuda": cuda,
        "mps": mps,
        "tpu": find_spec("torch_xla") is not None,
    }


def check_accelerator(name: str, found: Mapping[str, bool]) -> None:
    """Raise UserError for an accelerator that does not exist or is not there.

    Args:
        name: The value of ``trainer.accelerator``.
        found: What `accelerators` returned.
    """
    one_of(*found).check("trainer.accelerator", name)
    if not found[name]:
        raise UserError(
            f"trainer.accelerator={name} is not available here: use trainer.accelerator=auto"
        )


def device_of(config: TrainerConfig) -> torch.device:
    """Return the one device that ``trainer.accelerator`` and ``trainer.devices`` stand for.

    Raises:
        UserError: It is not there, or these are several.
    """
    found = {**accelerators(), "tpu": False}  # nothing here computes on one without Lightning
    check_accelerator(config.accelerator, found)
    named = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}
    kinds = named.get(config.accelerator, (config.accelerator,))
    kind = next(kind for kind in kinds if found[kind])
    if config.devices in ("auto", 1, "1"):
        return torch.device(kind)
    require(
        isinstance(config.devices, list) and len(config.devices) == 1,
        "trainer.devices",
        config.devices,
        "auto, 1 or a list of one number where whole videos are tracked: they take one device",
    )
    count = torch.cuda.device_count() if kind == "cuda" else 1
    require(
        0 <= config.devices[0] < count,
        "trainer.devices",
        config.devices,
        f"auto, 1 or a list of one number from 0 to {count - 1}: {kind} has no other device here",
    )
    return torch.device(kind, config.devices[0]) if kind == "cuda" else torch.device(kind)
