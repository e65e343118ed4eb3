"""Low-rank adapters (LoRA): a linear layer W x gets B A x beside it, and only A and B are trained.

Not on peft, which imports transformers (165 MiB and 2 s at every start) and renames the weights of
the layers that it wraps. Here a layer keeps its name, its weight and its place, so that everything
that knows SAM 2's names goes on working.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import UserError, nearest
from ..config import LORA_PRESETS, LoraConfig

_PARTS = {
    "memory": ("memory_attention",),
    "decoder_memory": ("memory_attention", "sam_mask_decoder.transformer"),
    "image_encoder": ("image_encoder.trunk.blocks",),
    "all": ("image_encoder.trunk.blocks", "memory_attention", "sam_mask_decoder.transformer"),
}


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; made by `inject` from an ``nn.Linear`` in its place."""

    lora_a: nn.Parameter  # [rank, in_features]
    lora_b: nn.Parameter  # [out_features, rank]
    lora_scale: float
    lora_dropout: float

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output plus the adapter's."""
        dropped = F.dropout(input, self.lora_dropout, self.training)
        low = F.linear(dropped, self.lora_a)
        return super().forward(input) + F.linear(low, self.lora_b) * self.lora_scale


def inject(model: nn.Module, config: LoraConfig) -> None:
    """Give the linear layers that `config` names adapters, in place; the output stays the same.

    Args:
        model: A SAM 2 with its weights loaded.
        config: `rank` None: nothing is changed.

    Raises:
        UserError: A name is neither a preset nor a module with linear layers; the model is then as
            it was.
    """
    if config.rank is None:
        return
    layers = _linear_layers(model, config.modules)
    scale = (config.rank if config.alpha is None else config.alpha) / config.rank
    for layer in layers:
        weight = layer.weight
        lora_a = torch.empty(config.rank, layer.in_features, device=weight.device)
        nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5))
        layer.__class__ = LoraLinear
        assert isinstance(layer, LoraLinear)  # for the type checker
        layer.lora_a = nn.Parameter(lora_a)
        layer.lora_b = nn.Parameter(torch.zeros(layer.out_features, config.rank).to(weight.device))
        layer.lora_scale, layer.lora_dropout = scale, config.dropout


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter to the weight of its layer, in place, and make it plain again."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.weight += module.lora_b @ module.lora_a * module.lora_scale
            del module.lora_a, module.lora_b, module.lora_scale, module.lora_dropout
            plain: nn.Module = module
            plain.__class__ = nn.Linear


def is_adapter(parameter_name: str) -> bool:
    """Return whether a parameter belongs to an adapter."""
    return parameter_name.endswith((".lora_a", ".lora_b"))


def _linear_layers(model: nn.Module, names: list[str]) -> list[nn.Linear]:
    modules = dict(model.named_modules())
    layers: dict[str, nn.Linear] = {}
    for name in names:
        found = {
            inner: module
            for inner, module in modules.items()
            for prefix in _PARTS.get(name, (name,))
            if type(module) is nn.Linear and (inner == prefix or inner.startswith(f"{prefix}."))
        }
        if not found:
            near = nearest(name, [*LORA_PRESETS, *modules])
            hint = f" (did you mean {near!r}?)" if near and name not in modules else ""
            raise UserError(
                f"model.lora.modules: the model has no linear layers in {name!r}{hint}; presets: "
                f"{', '.join(LORA_PRESETS)}"
            )
        layers |= found
    return list(layers.values())
