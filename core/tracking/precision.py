"""Computing with ``trainer.precision``, as Lightning does."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def computing_with(precision: str, device: torch.device) -> Iterator[None]:
    """Compute with half precision where ``trainer.precision`` says so.

    Args:
        precision: One of `core.config.PRECISIONS`; on a CPU ``16-mixed`` is ``bf16-mixed`` too.
        device: Where the model computes.
    """
    if precision.startswith("32"):
        yield
        return
    half = torch.float16 if precision.startswith("16") and device.type != "cpu" else torch.bfloat16
    with torch.autocast(device.type, half):
        yield
