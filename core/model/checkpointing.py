"""Activation checkpointing: what is computed again in the backward pass instead of being kept."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def checkpoint_model(model: Any, choice: str) -> None:
    """Have parts of the model compute their activations again, in place; gradients stay the same.

    Args:
        model: A ``SAM2Train``; the names of its parameters do not change.
        choice: ``model.activation_checkpointing``: blocks of the image encoder, layers of memory
            attention, or the mask decoder behind each correction click, which the official option
            ``use_act_ckpt_iterative_pt_sampling`` does.
    """
    if choice in ("image_encoder", "all"):
        for block in model.image_encoder.trunk.blocks:
            block.forward = functools.partial(_checkpointed, block.forward)
    if choice in ("memory_attention", "all"):
        for layer in model.memory_attention.layers:
            layer.forward = functools.partial(_checkpointed, layer.forward)
    if choice in ("clicks", "all"):
        model.use_act_ckpt_iterative_pt_sampling = True


def checkpoint_loss(loss: Any, choice: str) -> None:
    """Have the official loss compute each frame's activations again, in place.

    Args:
        loss: A ``MultiStepMultiMasksAndIous``.
        choice: See `checkpoint_model`.
    """
    if choice in ("loss", "all"):
        # One frame's part: the whole also has the ranks agree on the number of objects.
        loss._forward = functools.partial(_checkpointed, loss._forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
