"""Chooses which parts of a model are trained, and tells what they are."""

from typing import Optional

from torch import nn

from ..checks import UserError, nearest
from ..config import TRAINABLE_PRESETS
from .lora import is_adapter

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
