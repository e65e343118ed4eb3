"""A CUDA device, or one that is pretended on CPU where there is none.

The pretended one refuses what a real one would: calls that wait for it, operators on tensors of two
devices, and reading what was copied from it before the event behind the copy has passed.
"""

import contextlib
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Functions whose result, or its shape, the CPU learns from the device.
WAITS = {
    "__array__", "__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose",
    "argwhere", "bincount", "cpu", "equal", "is_nonzero", "item", "masked_select", "nonzero",
    "numpy", "repeat_interleave", "tolist", "unique", "unique_consecutive",
}  # fmt: skip


class RealCuda:
    """The first GPU."""

    def put(self, value):
        """Copy the tensors of a batch or of outputs to the device."""
        return _each_tensor(value, lambda tensor: tensor.to("cuda"))

    @contextlib.contextmanager
    def nothing_waits(self):
        """Fail on what waits for the device."""
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


class PretendedCuda:
    """CPU tensors which say that they live on a GPU; only inside `nothing_waits`."""

    def __init__(self, monkeypatch):
        self._on_their_way = []
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self._on_their_way)
        monkeypatch.setattr(torch.cuda, "Event", _Event)

    def put(self, value):
        """See `RealCuda.put`."""
        return _each_tensor(value, lambda tensor: _mark(tensor.clone()))

    def nothing_waits(self):
        """See `RealCuda.nothing_waits`."""
        return _Pretence(self._on_their_way)


class _Marked(torch.Tensor):
    """A tensor of the pretended device."""


class _Event:
    """Stands for `torch.cuda.Event`: once it has passed, what was copied before it is there."""

    def __init__(self, blocking):
        assert blocking, "the worker would spin"

    def record(self, stream):
        self._copies = stream.copy()
        stream.clear()

    def synchronize(self):
        for host, copied in self._copies:
            host.copy_(copied)


class _Pretence(TorchFunctionMode):
    def __init__(self, on_their_way):
        super().__init__()
        self._on_their_way = on_their_way
        self._pinned = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        marked = any(isinstance(x, _Marked) for x in tensors)
        is_pinned = kwargs.pop("pin_memory", False)
        if marked and name == "__get__":
            says = {"device": torch.device("cuda"), "is_cpu": False, "is_cuda": True}
            if func.__self__.__name__ in says:
                return says[func.__self__.__name__]
        elif marked and name == "copy_" and not isinstance(args[0], _Marked):
            assert any(args[0] is host for host in self._pinned), "the copy is not to pinned memory"
            assert kwargs == {"non_blocking": True}, "the copy waits for the device"
            self._on_their_way.append((args[0], args[1].clone().as_subclass(torch.Tensor)))
            return args[0].fill_(0xA5)
        elif marked:
            assert not _waits(name, args, kwargs), f"{name} waits for the device"
            assert all(isinstance(x, _Marked) or x.ndim == 0 for x in tensors), (
                f"{name} is given tensors of two devices"
            )
        elif torch.device(kwargs.get("device") or "cpu").type == "cuda":
            assert name not in ("tensor", "as_tensor"), f"{name} waits for the device"
            kwargs["device"], marked = "cpu", True
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if is_pinned:
            self._pinned.append(result)
        return _mark(result) if marked else result


def _waits(name, args, kwargs):
    if name in ("__getitem__", "__setitem__"):
        indices = tree_leaves(args[1])
        return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in indices)
    if name in ("to", "type"):
        return any(isinstance(x, (str, torch.device)) for x in (*args, *kwargs.values()))
    return name in WAITS or (name == "where" and len(args) == 1)


def _mark(value):
    if isinstance(value, (tuple, list)) and any(isinstance(x, torch.Tensor) for x in value):
        return [_mark(x) for x in value]
    return value.as_subclass(_Marked) if isinstance(value, torch.Tensor) else value


def _each_tensor(value, function):
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _each_tensor(item, function) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_tensor(item, function) for item in value]
    if hasattr(value, "img_batch"):
        names = ("img_batch", "masks", "obj_to_frame_idx")
        metadata = {
            name: function(known)
            for name in ("unique_objects_identifier", "frame_orig_size")
            if (known := getattr(value.metadata, name, None)) is not None
        }
        return SimpleNamespace(
            **{name: function(getattr(value, name)) for name in names},
            metadata=SimpleNamespace(**metadata),
        )
    return value
