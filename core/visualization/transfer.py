"""From the device to the host: one pinned copy, without waiting."""

from collections.abc import Iterable
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from .arrays import as_array


def to_host(
    arrays: dict[str, "Tensor | np.ndarray"], device: torch.device
) -> tuple[dict[str, np.ndarray], Optional["torch.cuda.Event"]]:
    """Copy tensors to memory that nobody else owns; on CUDA pinned, without waiting.

    Arrays are copies already.
    """
    if device.type != "cuda":
        return {name: _copy(array) for name, array in arrays.items()}, None
    on_device = {name: array for name, array in arrays.items() if array.device.type != "cpu"}
    copies = {name: _copy(array) for name, array in arrays.items() if name not in on_device}
    # Wide types first keep every array aligned.
    on_device = dict(sorted(on_device.items(), key=lambda item: -item[1].element_size()))
    # One buffer: asking the driver for pinned memory may wait for the device, and once there is a
    # buffer of this size it is used again and again.
    packed = _pack(on_device.values())
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    unpacked = _unpack(host, on_device)
    return copies | {name: tensor.numpy() for name, tensor in unpacked.items()}, event


def _copy(array: "Tensor | np.ndarray") -> np.ndarray:
    return np.array(as_array(array.cpu())) if isinstance(array, Tensor) else array


def _pack(tensors: Iterable[Tensor]) -> Tensor:
    """Put tensors one behind the other: [N] uint8 on their device."""
    # As bytes, a tensor's last dimension must lie in a piece, which that of a column need not.
    return torch.cat([tensor.unsqueeze(-1).view(torch.uint8).flatten() for tensor in tensors])


def _unpack(packed: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return views of what `_pack` made of tensors of the shapes and dtypes of `like`."""
    views, start = {}, 0
    for name, tensor in like.items():
        stop = start + tensor.numel() * tensor.element_size()
        views[name] = packed[start:stop].view(tensor.dtype).view(tensor.shape)
        start = stop
    return views
