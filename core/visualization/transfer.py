"""From the device to the host: one pinned copy, without waiting."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

from .arrays import copy_array
from .reduction import Either, Reduced

Name = TypeVar("Name")


def to_host(
    reduced: Reduced[Either], device: torch.device
) -> tuple[Reduced[np.ndarray], Optional["torch.cuda.Event"]]:
    """Copy what lives on a device to memory that nobody else owns; on CUDA pinned, without waiting.

    Arrays are copies already.

    Args:
        reduced: Left as it is.
        device: Where it was reduced.

    Returns:
        The same with arrays alone, and the event behind the last copy: on CUDA they are complete
        once it has passed, on CPU there is none.
    """
    if device.type != "cuda":
        return _with_each(reduced, _copy), None
    tensors = [array for array in arrays_of(reduced) if _is_elsewhere(array)]
    # Wide types first keep every array aligned.
    tensors.sort(key=lambda tensor: -tensor.element_size())
    on_device = {id(tensor): tensor for tensor in tensors}
    # One buffer: asking the driver for pinned memory may wait for the device, and once there is a
    # buffer of this size it is used again and again.
    packed = _pack(on_device.values())
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    arrived = {key: tensor.numpy() for key, tensor in _unpack(host, on_device).items()}
    return _with_each(
        reduced, lambda array: arrived[id(array)] if id(array) in arrived else _copy(array)
    ), event


def arrays_of(value: Any) -> Iterator[Any]:
    """Yield every tensor and array of what `to_host` is given."""
    if isinstance(value, (Tensor, np.ndarray)):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from arrays_of(item)
    elif dataclasses.is_dataclass(value):
        for item in vars(value).values():
            yield from arrays_of(item)


def _with_each(value: Any, function: Callable[[Any], np.ndarray]) -> Any:
    """Return what `to_host` is given with `function` of every tensor and array in its place."""
    if isinstance(value, (Tensor, np.ndarray)):
        return function(value)
    if isinstance(value, dict):
        return {name: _with_each(item, function) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # `dataclasses.replace` looks at each field once more, while training waits.
        items = {name: _with_each(item, function) for name, item in vars(value).items()}
        return type(value)(**items)
    return value


def _is_elsewhere(array: Either) -> TypeGuard[Tensor]:
    return isinstance(array, Tensor) and array.device.type != "cpu"


def _copy(array: Either) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array
    return copy_array(array)


def _pack(tensors: Iterable[Tensor]) -> Tensor:
    """Put tensors one behind the other: [N] uint8 on their device."""
    # As bytes, a tensor's last dimension must lie in a piece, which that of a column need not.
    return torch.cat([tensor.unsqueeze(-1).view(torch.uint8).flatten() for tensor in tensors])


def _unpack(packed: Tensor, like: dict[Name, Tensor]) -> dict[Name, Tensor]:
    """Return views of what `_pack` made of tensors of the shapes and dtypes of `like`."""
    views, start = {}, 0
    for name, tensor in like.items():
        stop = start + tensor.numel() * tensor.element_size()
        views[name] = packed[start:stop].view(tensor.dtype).view(tensor.shape)
        start = stop
    return views
