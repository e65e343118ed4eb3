"""Builds SAM 2 for training, with random weights, from the settings that come with ``sam2``.

``sam2`` is imported inside the functions, through `import_sam2`, so that this module can be
imported where the package is missing.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from ..checks import require
from ..config import ModelConfig
from ..official import import_sam2
from .checkpointing import checkpoint_model

if TYPE_CHECKING:
    from training.model.sam2 import SAM2Train

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
    An object is prompted only where it is (`core.model.sam2_train.SAM2TrainPresent`).
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
