"""Every random generator that a training draws from: keep its state, seed it, put it back."""

import random
from typing import Any, Optional, TypedDict

import numpy as np
import torch
from torch import Tensor


class RandomStates(TypedDict):
    """The states of all generators, as checkpoints hold them: readable without trusting the file.

    Attributes:
        python: `random`'s.
        numpy: NumPy's global one: kind, keys, position, and what it has of a pair of normal draws.
        torch: The CPU's, uint8.
        cuda: The device's, uint8; None on another device.
        model: That of the generator which SAM 2 draws prompts from.
    """

    python: tuple[Any, ...]
    numpy: tuple[str, list[int], int, int, float]
    torch: Tensor
    cuda: Optional[Tensor]
    model: dict[str, Any]


def capture(device: torch.device, model: np.random.Generator) -> RandomStates:
    """Return the states of all generators as they are.

    Args:
        device: What the training runs on.
        model: SAM 2's own generator.
    """
    return {
        "python": random.getstate(),
        "numpy": _as_plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "model": dict(model.bit_generator.state),
    }


def seeded(seed: int, device: torch.device) -> RandomStates:
    """Return what `capture` would where each generator was just seeded; none is touched.

    Args:
        seed: From 0 to 2**32 - 1.
        device: What the training runs on.
    """
    on_cuda = device.type == "cuda"
    return {
        "python": random.Random(seed).getstate(),
        "numpy": _as_plain(np.random.RandomState(seed).get_state(legacy=False)),
        "torch": torch.Generator().manual_seed(seed).get_state(),
        "cuda": torch.Generator(device).manual_seed(seed).get_state() if on_cuda else None,
        "model": dict(np.random.default_rng(seed).bit_generator.state),
    }


def restore(states: RandomStates, device: torch.device, model: np.random.Generator) -> None:
    """Put all generators into the states given.

    Args:
        states: What `capture` or `seeded` returned, perhaps in another process and on another
            device.
        device: What the training runs on.
        model: SAM 2's own generator.
    """
    kind, keys, position, has_gauss, gauss = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    model.bit_generator.state = states["model"]


def _as_plain(state: dict[str, Any]) -> tuple[str, list[int], int, int, float]:
    """Return the tuple that NumPy has always given, with plain numbers for its array."""
    keys, position = state["state"]["key"].tolist(), state["state"]["pos"]
    return state["bit_generator"], keys, position, state["has_gauss"], state["gauss"]
