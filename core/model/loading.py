"""Loads weights of any format into a model; tells which model a file of weights is of."""

import dataclasses
import logging
from pathlib import Path
from typing import Optional, Union

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..checks import require
from ..config import ModelConfig
from .build import PACKAGED_CONFIGS, PACKAGED_IMAGE_SIZE
from .hugging_face import is_hugging_face, read_hugging_face
from .lora import is_adapter
from .weights import PROBE, CheckpointError, FoundWeights, read_file

logger = logging.getLogger(__name__)

# (channels of the patch embedding, blocks of the trunk): enough to tell the architectures apart.
_TRUNKS = {
    (16, 7): "tiny",
    (96, 12): "sam2.1_hiera_tiny",
    (96, 16): "sam2.1_hiera_small",
    (112, 24): "sam2.1_hiera_base_plus",
    (144, 48): "sam2.1_hiera_large",
}

# Parameters that SAM 2.1 added to SAM 2.0.
_NEW_IN_SAM21 = frozenset(
    {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}
)


def load_weights(
    model: nn.Module, path: Union[str, Path], name: str = "model.checkpoint_path"
) -> str:
    """Load weights into `model`, in place and strictly.

    Those of SAM 2.0 lack what SAM 2.1 added: it is set to zero, with which the model computes what
    SAM 2.0 does, bit for bit. An object pointer then gets nothing for its distance in time, and the
    memory of a frame nothing for an object that is not there.

    Args:
        model: What `build_model` returned.
        path: A released or exported ``.pt`` file (a ``model`` entry), a Lightning ``.ckpt`` (a
            ``state_dict`` entry), or what other programs save: see `find_weights`. Only tensors and
            plain containers are unpickled. Or what `read_hugging_face` takes.
        name: What messages call the file: the setting that named it.

    Returns:
        One line for the log: how many tensors were loaded, and how the file holds them. For a SAM
        2.0 file it names the parameters of SAM 2.1 that are zero, which is logged as a warning too.

    Raises:
        CheckpointError: The file is missing or unreadable, or does not fit the model, which is then
            left as it was.
    """
    return load_found(model, read_weights(path, name), path, name)


def load_found(
    model: nn.Module,
    read: FoundWeights,
    path: Union[str, Path],
    name: str = "model.checkpoint_path",
) -> str:
    """Do what `load_weights` does with weights that were read from `path` already."""
    own = model.state_dict()
    found = read.weights
    missing = [key for key in own if key not in found]
    _check_fit(f"{name}={path}", own, found, missing)
    model.load_state_dict(found | {key: torch.zeros_like(own[key]) for key in missing})
    report = f"{len(own) - len(missing)} of {len(own)} tensors loaded from {path}{read}"
    if missing:
        report += (
            f"; this is a SAM 2.0 file: {', '.join(sorted(missing))} of SAM 2.1 are zero, with "
            "which the model computes what SAM 2.0 does; what is exported from this model is "
            "SAM 2.1"
        )
        logger.warning(report)
    return report


def read_weights(path: Union[str, Path], name: str = "model.checkpoint_path") -> FoundWeights:
    """Return the weights of a file of any format that `load_weights` takes.

    Args:
        path: The file.
        name: What messages call it: the setting that named it.

    Raises:
        CheckpointError: The file is missing, unreadable, or holds no weights.
    """
    return read_hugging_face(path, name) if is_hugging_face(path) else read_file(Path(path), name)


def model_config_from(path: Path, name: str = "model.checkpoint_path") -> ModelConfig:
    """Return the settings of the model that weights are of, as far as the file tells.

    Args:
        path: What `read_weights` takes.
        name: What messages call the file: the setting that named it.

    Raises:
        CheckpointError: They are of no architecture that is known here.
    """
    found = read_weights(path, name)
    architecture = architecture_of(found.weights)
    if architecture is None:
        raise CheckpointError(
            f"{name}={path} holds weights of no architecture that this program knows"
            f" (tiny, {', '.join(PACKAGED_CONFIGS)})"
        )
    size, beside = found.image_size, path.with_suffix(".yaml")
    if size is None and architecture in PACKAGED_CONFIGS:
        size = PACKAGED_IMAGE_SIZE
    elif size is None and beside.is_file():
        size = int(OmegaConf.select(OmegaConf.load(beside), "model.image_size"))
    config = ModelConfig(architecture=architecture)
    return config if size is None else dataclasses.replace(config, image_size=size)


def with_architecture(config: ModelConfig) -> ModelConfig:
    """Return `config` with the architecture of its weights in place of ``auto``.

    Raises:
        UserError: No weights are given.
        CheckpointError: The weights are unreadable or not those of an architecture known here.
    """
    if config.architecture != "auto":
        return config
    require(
        config.checkpoint_path is not None,
        "model.checkpoint_path",
        None,
        "given with model=auto: the architecture is that of the weights",
    )
    assert config.checkpoint_path is not None
    found = architecture_of(read_weights(config.checkpoint_path).weights)
    if found is None:
        raise CheckpointError(
            f"model.checkpoint_path={config.checkpoint_path}: these are not the weights of a SAM 2 "
            "model that model=auto could find out"
        )
    return dataclasses.replace(config, architecture=found)


def _check_fit(
    file: str, own: dict[str, Tensor], found: dict[str, Tensor], missing: list[str]
) -> None:
    """Refuse weights other than the model's own; those of SAM 2.0 may lack what 2.1 added."""
    unexpected = [name for name in found if name not in own]
    wrong_shape = [name for name in own if name in found and own[name].shape != found[name].shape]
    if unexpected or wrong_shape or (missing and set(missing) != _NEW_IN_SAM21):
        raise CheckpointError(
            f"{file} does not fit the model: "
            f"{_count(missing, 'missing')}, {_count(unexpected, 'unexpected')}, "
            f"{_count(wrong_shape, 'of another shape')}, {len(own)} parameters expected"
            f"{_likely_reason(own, found)}"
        )


def _count(names: list[str], what: str) -> str:
    if not names:
        return f"0 {what}"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown})"


def _likely_reason(own: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    if any(map(is_adapter, found)) and not any(map(is_adapter, own)):
        return "; the file holds adapters beside the weights: merge them with python -m core.export"
    own_name, found_name = architecture_of(own), architecture_of(found)
    if found_name is None:
        return "; these are not the weights of a SAM 2 model"
    if found_name != own_name:
        return (
            f"; the file fits model.architecture={found_name}, "
            f"the model is {own_name}: use model={found_name}"
        )
    return ""


def architecture_of(state_dict: dict[str, Tensor]) -> Optional[str]:
    """Return the ``model.architecture`` that weights belong to, None for those of no SAM 2."""
    patch = state_dict.get(PROBE)
    prefix = "image_encoder.trunk.blocks."
    blocks = {name.split(".")[3] for name in state_dict if name.startswith(prefix)}
    return _TRUNKS.get((patch.shape[0], len(blocks))) if patch is not None else None
