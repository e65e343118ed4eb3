"""Any tensor or array as pixels or masks."""

import numpy as np
import torch
from torch import Tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """View a CPU tensor; NumPy knows no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_bool(masks: np.ndarray) -> np.ndarray:
    """Return masks as bool, true where positive; those that are bool as they are."""
    return masks if masks.dtype == bool else masks > 0
