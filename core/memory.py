"""How much memory training has taken at most."""

import sys
from pathlib import Path
from typing import Optional

import torch

GIB = 2**30


def peak_memory(device: torch.device) -> Optional[float]:
    """Return the most memory that this process has held, in GiB; None where that is not known.

    On CUDA it is what tensors took on the device, which is read without waiting for it. Elsewhere
    it is the resident memory of the process, without its DataLoader workers.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def held_memory(device: torch.device) -> Optional[float]:
    """Return what is held now, in GiB, as `peak_memory` counts; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory(device)
    import resource

    return int(statm.read_text().split()[1]) * resource.getpagesize() / GIB


def kind_of_memory(device: torch.device) -> str:
    """Return the word for what `peak_memory` measures."""
    return "of the device" if device.type == "cuda" else "resident"
