"""Files of adapters: what a training with adapters changed, to be put on its base again.

The base is the weights that training started from. Such a file holds every tensor of the trained
model that the base does not have bit for bit: the adapters, and what was trained in full beside
them. Its metadata hold the settings of the model, the base's name and the base's hash.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor

from ..config import ModelConfig, model_config_of
from .hugging_face import HUB
from .loading import read_weights
from .weights import CheckpointError, FoundWeights, write_safetensors

_BASE, _HASH, _MODEL = "base", "base_sha256", "model"


@dataclass(frozen=True)
class AdapterFile:
    """What a file of adapters says of itself, and where to read what it holds.

    Attributes:
        path: The file.
        model: The settings of the model; `checkpoint_path` is the base's name.
        base_sha256: `weights_hash` of the base.
    """

    path: Path
    model: ModelConfig
    base_sha256: str

    def tensors(self) -> dict[str, Tensor]:
        """Read what the base does not have, by SAM 2's own names."""
        from safetensors.torch import load_file

        return load_file(self.path)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes, types and values, as 64 hexadecimal digits.

    Floating point numbers are taken in float32, as a model holds them: so the hash does not depend
    on the format of the file.

    Args:
        weights: By SAM 2's own names, in any order.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_adapters(weights: Mapping[str, Tensor], path: Path, config: ModelConfig) -> None:
    """Write what `weights` has beside its base.

    Args:
        weights: All tensors of the trained model, adapters not merged.
        path: The ``.safetensors`` file; its folder is made, an older file is replaced at the end.
        config: The settings of the model; the base is its `checkpoint_path`.

    Raises:
        CheckpointError: There is no base, it cannot be read, or the training had no adapters.
    """
    if config.checkpoint_path is None or config.lora.rank is None:
        lacking = "model.lora.rank" if config.lora.rank is None else "model.checkpoint_path"
        raise CheckpointError(
            f"{path}: a file of adapters needs a training with adapters on weights from a file, "
            f"this one had {lacking}=null"
        )
    base = read_weights(config.checkpoint_path).weights
    own = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
        if name not in base or not _same(base[name], value)
    }
    name = _name_of(config.checkpoint_path)
    settings = dataclasses.asdict(dataclasses.replace(config, checkpoint_path=name))
    metadata = {
        "format": "pt",
        _BASE: name,
        _HASH: weights_hash(base),
        _MODEL: json.dumps(settings),
    }
    write_safetensors(own, path, metadata)


def _same(base: Tensor, value: Tensor) -> bool:
    return base.shape == value.shape and torch.equal(base.to(value.dtype), value.cpu())


def _name_of(base: str) -> str:
    """Return what the file says of the base: nothing of where it lies on this machine."""
    return base if base.startswith(HUB) else Path(base).resolve().name


def read_adapters(path: Union[str, Path]) -> Optional[AdapterFile]:
    """Return what a file of adapters says of itself, None where `path` is something else.

    Raises:
        CheckpointError: The settings in the file are of another version of this program.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if not {_BASE, _HASH, _MODEL} <= metadata.keys():
                return None
    except (SafetensorError, OSError):
        return None  # whoever reads it as something else says what is wrong
    try:
        model = model_config_of(json.loads(metadata[_MODEL]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the settings in it cannot be used: {error}") from error
    return AdapterFile(path, model, metadata[_HASH])


def find_base(adapters: AdapterFile, name: str = "base") -> str:
    """Return the base's name on Hugging Face's hub, or what lies under its name beside the file.

    Args:
        adapters: What `read_adapters` returned.
        name: What messages call the setting that names a base.

    Raises:
        CheckpointError: Nothing lies there.
    """
    named = adapters.model.checkpoint_path or ""
    if named.startswith(HUB):
        return named
    beside = adapters.path.parent / named
    if not beside.exists():
        raise CheckpointError(
            f"{adapters.path} holds adapters without the weights that they belong to: give "
            f"these ({_expected(adapters)}) with {name}=PATH"
        )
    return str(beside)


def _expected(adapters: AdapterFile) -> str:
    return f"{adapters.model.checkpoint_path} with SHA-256 {adapters.base_sha256[:12]}..."


def put_on_base(
    adapters: AdapterFile, base: Optional[str] = None, name: str = "base"
) -> FoundWeights:
    """Return the weights of the trained model, adapters not merged.

    Args:
        adapters: What `read_adapters` returned.
        base: The weights that training started from, in any format that `read_weights` takes; None:
            what `find_base` finds.
        name: What messages call `base`: the setting that names it.

    Raises:
        CheckpointError: The base is missing, unreadable or another one.
    """
    base = base or find_base(adapters, name)
    weights = read_weights(base, name).weights
    found = weights_hash(weights)
    if found != adapters.base_sha256:
        raise CheckpointError(
            f"{name}={base} has the SHA-256 {found[:12]}...: the adapters in {adapters.path} "
            f"belong to {_expected(adapters)}"
        )
    named = adapters.model.checkpoint_path
    return FoundWeights({**weights, **adapters.tensors()}, "model", "", note=f"adapters on {named}")
