"""Builds SAM 2 for training, loads released or exported weights into it, and freezes parts of it.

The order is `build_model`, `load_weights`, `core.lora.inject`, `freeze`. The other way, to a file
that Meta's own predictor loads, is in ``core/export.py``.

``sam2`` is imported inside the functions, through `import_sam2`, so that this module and its error
classes can be imported where the package is missing.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from .checkpointing import checkpoint_model
from .checks import UserError, nearest, require
from .config import TRAINABLE_PRESETS, ModelConfig
from .hugging_face import image_size_of, is_hugging_face, read_hugging_face
from .lora import is_adapter
from .official import import_sam2
from .weights import PROBE, CheckpointError, FoundWeights, read_file

if TYPE_CHECKING:
    from training.model.sam2 import SAM2Train

logger = logging.getLogger(__name__)

PACKAGED_CONFIGS = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}

PACKAGED_IMAGE_SIZE = 1024

# `tiny` is sam2.1_hiera_tiny with these changes. Hiera allows global attention in any block but the
# first of a stage; the neck lists the stages' channels from the coarsest to the finest.
_TINY_OVERRIDES = {
    "image_encoder.trunk.embed_dim": 16,
    "image_encoder.trunk.num_heads": 1,
    "image_encoder.trunk.stages": [1, 2, 3, 1],
    "image_encoder.trunk.global_att_blocks": [4, 5],
    "image_encoder.neck.d_model": 64,
    "image_encoder.neck.position_encoding.num_pos_feats": 64,
    "image_encoder.neck.backbone_channel_list": [128, 64, 32, 16],
    "memory_attention.d_model": 64,
    "memory_attention.num_layers": 2,
    "memory_attention.layer.d_model": 64,
    "memory_attention.layer.dim_feedforward": 256,
    "memory_attention.layer.self_attention.embedding_dim": 64,
    "memory_attention.layer.cross_attention.embedding_dim": 64,
    "memory_attention.layer.cross_attention.kv_in_dim": 64,
    "memory_encoder.in_dim": 64,
    "memory_encoder.out_dim": 64,
    "memory_encoder.mask_downsampler.embed_dim": 64,
    "memory_encoder.fuser.layer.dim": 64,
    # One mask per tracked frame: from random weights the estimate that chooses among three often
    # stays near 0 for all of them, and the wrong one is taken however good the best is.
    "multimask_output_for_tracking": False,
}

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

_MEMORY_MODULES = (
    "memory_attention",
    "memory_encoder",
    "maskmem_tpos_enc",
    "no_mem_embed",
    "no_mem_pos_enc",
    "no_obj_embed_spatial",
)
# What nothing reaches where clips have one frame; of `no_mem_embed` alone there is a gradient then.
_TRACKING_MODULES = (
    *_MEMORY_MODULES,
    "mask_downsample",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
    "no_obj_ptr",
)
_DECODER_MODULES = (
    "sam_mask_decoder",
    "mask_downsample",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
    "no_obj_ptr",
)


# Of a prompt of points, and of its being a box then.
_PROBABILITIES = {
    "mask": (0.0, 0.0),
    "point": (1.0, 0.0),
    "bbox": (1.0, 1.0),
    "mixed": (0.5, 0.5),
}


def build_model(config: ModelConfig) -> "SAM2Train":
    """Build SAM 2 for training, with random weights.

    The architecture comes from the YAML files inside the ``sam2`` package, the prompts from
    `config` with the probabilities of official training (``sam2/configs/sam2.1_training``).
    An object is prompted only where it is (`core.sam2_train.SAM2TrainPresent`).
    Validation with ``mixed`` prompts gives masks, as official training does; with ``point`` and
    ``bbox`` it gives the same type, clicks being placed at the centre of the error. Clips of one
    frame never get masks: they get boxes where longer clips do, clicks otherwise, and corrections.

    Neither Hydra's global state nor the root logger is changed.

    Args:
        config: The model section; `config.checkpoint_path` and `config.trainable_modules` are left
            to `load_weights` and `freeze`.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    import_sam2()
    from hydra.utils import instantiate

    from .sam2_train import SAM2TrainPresent

    node = architecture_node(config)
    node["_target_"] = f"{SAM2TrainPresent.__module__}.{SAM2TrainPresent.__qualname__}"
    node.update(_prompt_arguments(config))
    with _own_cuda_device(), _root_logger_unchanged():
        model = instantiate(node, _convert_="all")
    checkpoint_model(model, config.activation_checkpointing)
    if config.compile_image_encoder:
        # In place and without a wrapper: the names in the state dict stay those of SAM 2.
        model.image_encoder.compile()
    return model


def architecture_node(config: ModelConfig) -> DictConfig:
    """Return the ``model`` node of the packaged YAML, adapted to `config`.

    Args:
        config: `architecture` and `image_size` are read.

    Returns:
        A node that Meta's ``sam2.build_sam`` functions can build: ``_target_`` is ``SAM2Base``.

    Raises:
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    import_sam2()
    require(
        config.architecture != "auto",
        "model.architecture",
        "auto",
        "resolved by `with_architecture` before a model is built",
    )
    name = PACKAGED_CONFIGS.get(config.architecture, PACKAGED_CONFIGS["sam2.1_hiera_tiny"])
    packaged = OmegaConf.create((files("sam2") / name).read_text())
    assert isinstance(packaged, DictConfig)
    node: DictConfig = packaged["model"]
    overrides = size_overrides(config.image_size)
    if config.architecture == "tiny":
        overrides |= _TINY_OVERRIDES
    for key, value in overrides.items():
        OmegaConf.update(node, key, value, force_add=True)
    return node


def size_overrides(image_size: int) -> dict[str, Any]:
    """Return the fields under ``model`` that depend on the image size, and their values."""
    side = image_size // 16  # the stride of the features that memory attention works on
    return {
        "image_size": image_size,
        "memory_attention.layer.self_attention.feat_sizes": [side, side],
        "memory_attention.layer.cross_attention.feat_sizes": [side, side],
    }


@contextlib.contextmanager
def prompted_with(model: "SAM2Train", prompt_type: str) -> Iterator[None]:
    """Have a model in evaluation prompted with ``mask``, ``bbox`` or ``point`` meanwhile."""
    before = model.prob_to_use_pt_input_for_eval, model.prob_to_use_box_input_for_eval
    point, box = _PROBABILITIES[prompt_type]
    model.prob_to_use_pt_input_for_eval, model.prob_to_use_box_input_for_eval = point, box
    try:
        yield
    finally:
        model.prob_to_use_pt_input_for_eval, model.prob_to_use_box_input_for_eval = before


def _prompt_arguments(config: ModelConfig) -> dict[str, Any]:
    point, box = _PROBABILITIES[config.prompt_type]
    mixed = config.prompt_type == "mixed"
    return {
        "prob_to_use_pt_input_for_train": point,
        "prob_to_use_box_input_for_train": box,
        "prob_to_use_pt_input_for_eval": 0.0 if mixed else point,
        "prob_to_use_box_input_for_eval": 0.0 if mixed else box,
        "prob_to_sample_from_gt_for_train": 0.1,
        "num_correction_pt_per_frame": config.num_correction_points,
        "num_frames_to_correct_for_train": config.num_frames_to_correct,
        "num_frames_to_correct_for_eval": 1,
        "rand_frames_to_correct_for_train": True,
        "add_all_frames_to_correct_as_cond": True,
        "num_init_cond_frames_for_train": config.num_init_cond_frames,
        "num_init_cond_frames_for_eval": 1,
        "rand_init_cond_frames_for_train": True,
        "pt_sampling_for_eval": "center",
        "forward_backbone_per_frame_for_eval": True,
    }


@contextlib.contextmanager
def _own_cuda_device() -> Iterator[None]:
    """Let "cuda" mean this process's device: sam2 puts tables there when it builds a model."""
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    if not torch.cuda.is_available() or int(rank) >= torch.cuda.device_count():
        yield
        return
    with torch.cuda.device(int(rank)):
        yield


@contextlib.contextmanager
def _root_logger_unchanged() -> Iterator[None]:
    """Undo what ``logging.info`` does to a root logger without handlers."""
    handlers = list(logging.root.handlers)
    try:
        yield
    finally:
        for handler in list(logging.root.handlers):
            if handler not in handlers:
                logging.root.removeHandler(handler)


def load_weights(
    model: nn.Module, path: Union[str, Path], name: str = "model.checkpoint_path"
) -> str:
    """Load weights into `model`, in place and strictly.

    Args:
        model: What `build_model` returned.
        path: A released or exported ``.pt`` file (a ``model`` entry), a Lightning ``.ckpt`` (a
            ``state_dict`` entry), or what other programs save: see `find_weights`. Only tensors and
            plain containers are unpickled. Or what `read_hugging_face` takes.
        name: What messages call the file: the setting that named it.

    Returns:
        One line for the log: how many tensors were loaded, and how the file holds them. For a SAM
        2.0 file it names the parameters of SAM 2.1 that kept their initial values, which is logged
        as a warning too.

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
    model.load_state_dict(found, strict=False)
    report = f"{len(own) - len(missing)} of {len(own)} tensors loaded from {path}{read}"
    if missing:
        report += (
            "; this is a SAM 2.0 file (no `no_obj_embed_spatial`, `obj_ptr_tpos_proj`): "
            f"{', '.join(sorted(missing))} keep their initial values, and what is exported from "
            "this model is SAM 2.1"
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


def model_config_from(path: Path, given: str, name: str = "model.checkpoint_path") -> ModelConfig:
    """Return the settings of the model that weights are of, as far as the file tells.

    Args:
        path: What `read_weights` takes.
        given: The architecture that would be built otherwise, for messages.
        name: What messages call the file: the setting that named it.

    Raises:
        CheckpointError: They are of no architecture that is known here.
    """
    architecture = architecture_of(read_weights(path, name).weights)
    if architecture is None:
        raise CheckpointError(
            f"{name}={path} holds weights of no architecture that this program knows"
            f" (tiny, {', '.join(PACKAGED_CONFIGS)}); it was going to build {given}"
        )
    if architecture in PACKAGED_CONFIGS:
        size = image_size_of(path) if is_hugging_face(path) else None
        return ModelConfig(architecture=architecture, image_size=size or PACKAGED_IMAGE_SIZE)
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return ModelConfig(architecture=architecture)
    size = OmegaConf.select(OmegaConf.load(beside), "model.image_size")
    return ModelConfig(architecture=architecture, image_size=int(size))


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


def freeze(model: nn.Module, trainable_modules: Optional[list[str]]) -> None:
    """Freeze every parameter outside the named modules, in place.

    Frozen modules stay in training mode, as in official training. SAM 2 has no batch norm, so this
    only means that the dropout of memory attention (0.1) stays on when memory attention is frozen;
    the packaged image encoders have no drop-path.

    Args:
        model: What `build_model` returned.
        trainable_modules: None: everything is trained, or the adapters alone where `model` has some
            (they are trained in any case). Otherwise names, each a preset or the dotted
            name of a module or a parameter. ``all``; ``memory``: memory attention, memory encoder
            and their embeddings; ``decoder_memory``: these, the mask decoder and the object
            pointers; ``all_but_image_encoder``.

    Raises:
        UserError: A name is neither; the message has the nearest valid one. Or what it names has
            adapters.
    """
    layers = {name.rpartition(".")[0] for name, _ in model.named_parameters() if is_adapter(name)}
    adapters_alone = bool(layers) and trainable_modules is None
    names = [] if adapters_alone else _resolve_presets(model, trainable_modules)
    _check_names(model, names)
    for name in names:
        if any(_is_inside(layer, name) or _is_inside(name, layer) for layer in layers):
            raise UserError(
                f"model.trainable_modules: {name!r} has adapters: name it there or in "
                "model.lora.modules, not in both"
            )
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(
            is_adapter(parameter_name) or any(_is_inside(parameter_name, name) for name in names)
        )


def trains_memory(model: nn.Module) -> bool:
    """Return whether any weight of the memory is trained; see the preset ``memory``."""
    return any(
        parameter.requires_grad and name.split(".")[0] in _MEMORY_MODULES
        for name, parameter in model.named_parameters()
    )


def _check_names(model: nn.Module, names: list[str]) -> None:
    known = {name for name, _ in model.named_modules() if name}
    known |= {name for name, _ in model.named_parameters()}
    for name in names:
        if name not in known:
            near = nearest(name, [*sorted(known), *TRAINABLE_PRESETS])
            hint = f" (did you mean {near!r}?)" if near else ""
            raise UserError(
                f"model.trainable_modules: the model has no module {name!r}{hint}; presets: "
                f"{', '.join(TRAINABLE_PRESETS)}; top-level modules: "
                f"{', '.join(_top_level_names(model))}"
            )
        if not any(_is_inside(parameter, name) for parameter, _ in model.named_parameters()):
            raise UserError(f"model.trainable_modules: {name!r} has no parameters to train")


def _resolve_presets(model: nn.Module, names: Optional[list[str]]) -> list[str]:
    everything = _top_level_names(model)
    presets = {
        "all": everything,
        "memory": [name for name in _MEMORY_MODULES if name in everything],
        "decoder_memory": [
            name for name in _MEMORY_MODULES + _DECODER_MODULES if name in everything
        ],
        "all_but_image_encoder": [name for name in everything if name != "image_encoder"],
    }
    resolved = []
    for name in ["all"] if names is None else names:
        resolved += presets.get(name, [name])
    return resolved


def _top_level_names(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))


def _is_inside(parameter_name: str, name: str) -> bool:
    return parameter_name == name or parameter_name.startswith(f"{name}.")


def reaches_images(model: nn.Module) -> bool:
    """Return whether anything that is trained works on an image, where there is nothing to track.

    Args:
        model: What `freeze` was called with.
    """
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return any(name.split(".")[0] not in _TRACKING_MODULES for name in trained)


def parameter_table(model: nn.Module) -> str:
    """Return the trainable and frozen parameters per top-level module, with totals, as a table."""
    rows = {name: [0, 0] for name in _top_level_names(model)}
    for name, parameter in model.named_parameters():
        rows[name.split(".")[0]][0 if parameter.requires_grad else 1] += parameter.numel()
    rows["total"] = [sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values())]
    width = max(len(name) for name in rows)
    lines = [f"{'module':<{width}}  {'trainable':>12}  {'frozen':>12}"]
    lines += [
        f"{name:<{width}}  {trainable:>12,}  {frozen:>12,}"
        for name, (trainable, frozen) in rows.items()
    ]
    return "\n".join(lines)
