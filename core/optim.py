"""Optimizer and learning-rate schedule, grouped as in official SAM 2 fine-tuning."""

import math
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .checks import UserError
from .config import OptimizerConfig, SchedulerConfig


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    Norms, biases and other one-dimensional parameters get no weight decay. The image encoder gets
    `config.image_encoder_lr`; within its trunk, block i of n gets it times
    ``layer_decay ** (n - i)``, the patch embedding times ``layer_decay ** (n + 1)``, and the
    positional embeddings the undiminished rate (``layer_decay_param_modifier`` of
    ``training/optimizer.py`` with the override of the official YAML).

    Args:
        model: A SAM 2 with an ``image_encoder.trunk``; frozen parameters are left out.
        config: The optimizer section.

    Returns:
        Dictionaries with ``params``, ``lr``, ``weight_decay`` and a unique ``name``, which
        Lightning's learning-rate monitor shows; the same groups in the same order every time.

    Raises:
        UserError: Nothing is trainable.
    """
    blocks = model.get_submodule("image_encoder.trunk.blocks")
    assert isinstance(blocks, nn.ModuleList)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        label, lr = _label_and_rate(name, len(blocks), config)
        decays = parameter.ndim > 1 and not name.endswith("bias")
        label += "" if decays else "/no_decay"
        group = groups.setdefault(
            label,
            {
                "params": [],
                "lr": lr,
                "weight_decay": config.weight_decay if decays else 0.0,
                "name": label,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise UserError("model.trainable_modules leaves no parameter to train")
    return list(groups.values())


def _label_and_rate(name: str, num_blocks: int, config: OptimizerConfig) -> tuple[str, float]:
    if not name.startswith("image_encoder."):
        return "rest", config.lr
    lr = config.lr if config.image_encoder_lr is None else config.image_encoder_lr
    # Hiera's own numbering: 0 the patch embedding, i + 1 block i. The neck, which is no part of the
    # trunk, and the positional embeddings keep the full rate.
    if config.layer_decay == 1 or not name.startswith("image_encoder.trunk."):
        return "image_encoder", lr
    if ".patch_embed." in name:
        layer = 0
    elif ".blocks." in name:
        layer = int(name.split(".blocks.")[1].split(".")[0]) + 1
    else:
        return "image_encoder", lr
    return f"image_encoder/layer_{layer}", lr * config.layer_decay ** (num_blocks + 1 - layer)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Build AdamW or Adam over `parameter_groups`.

    Args:
        model: See `parameter_groups`; frozen parts must be frozen already.
        config: The optimizer section.

    Raises:
        UserError: Nothing is trainable.
    """
    kind = {"adamw": AdamW, "adam": Adam}[config.name]
    return kind(parameter_groups(model, config), lr=config.lr, betas=tuple(config.betas))


def num_warmup_steps(config: SchedulerConfig, num_steps: int) -> int:
    """Return over how many of all steps the rate rises."""
    return int(config.warmup_fraction * num_steps)


def build_scheduler(optimizer: Optimizer, config: SchedulerConfig, num_steps: int) -> LambdaLR:
    """Build a linear warm-up followed by a cosine or a constant rate, stepped per optimizer step.

    Every group keeps its share of the peak: the schedule multiplies each group's own rate. Steps
    past `num_steps` keep the last rate.

    Args:
        optimizer: Its groups' rates are the peaks.
        config: The scheduler section.
        num_steps: Optimizer steps of the whole training, at least 1.

    Raises:
        ValueError: `num_steps` is less than 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    num_warmup = num_warmup_steps(config, num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        if config.name == "constant":
            return 1.0
        progress = min(1.0, (step - num_warmup) / max(1, num_steps - 1 - num_warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine

    return LambdaLR(optimizer, factor)
