"""Adapters beside linear layers: what they change, what is trained, and how they are merged."""

import dataclasses

import pytest
import torch
from torch import nn

from core.checks import UserError
from core.config import Config, LoraConfig, ModelConfig, config_of
from core.export import export_checkpoint
from core.model.build import build_model
from core.model.freezing import freeze
from core.model.loading import load_weights
from core.model.lora import LoraLinear, inject, merge
from core.model.weights import CheckpointError
from core.official import import_sam2
from core.resume import check_resumable
from core.tracking.weights import build_predictor, find
from core.trainer import SAM2LightningModule

SIZE = 64


class Small(nn.Module):
    """Two linear layers under names that SAM 2 has, and one that no preset means."""

    def __init__(self):
        super().__init__()
        self.memory_attention = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.memory_attention(x))


def shake_adapters(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))


def test_new_adapters_change_nothing():
    model, x = Small(), torch.randn(7, 6)
    before = model(x)
    inject(model, LoraConfig(rank=2, modules=["memory"]))
    assert torch.equal(model(x), before)


def test_without_a_rank_nothing_happens():
    model = Small()
    inject(model, LoraConfig())
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_an_adapter_adds_b_a_x_times_alpha_over_rank():
    layer, x = nn.Linear(2, 2, bias=False), torch.tensor([[3.0, 5.0]])
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
    model = nn.Sequential(layer)
    inject(model, LoraConfig(rank=1, modules=["0"], alpha=4.0))
    with torch.no_grad():
        layer.lora_a.copy_(torch.tensor([[1.0, 2.0]]))  # A x = 13
        layer.lora_b.copy_(torch.tensor([[0.5], [-1.0]]))
    # [3, 5] + 4 * 13 * [0.5, -1]
    assert torch.equal(model(x), torch.tensor([[29.0, -47.0]]))


def test_merging_keeps_the_output_and_the_names():
    model, x = Small(), torch.randn(7, 6)
    names = list(model.state_dict())
    inject(model, LoraConfig(rank=3, modules=["memory", "head"], alpha=2.0))
    shake_adapters(model)
    expected = model(x)
    merge(model)
    assert list(model.state_dict()) == names
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert all(type(module) is not LoraLinear for module in model.modules())


def test_dropout_is_off_in_evaluation():
    model, x = Small(), torch.randn(50, 6)
    inject(model, LoraConfig(rank=2, modules=["memory"], dropout=0.5))
    shake_adapters(model)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", ["memry", "memory_attention.1", "head.weight"])
def test_a_name_without_linear_layers_leaves_the_model_as_it_was(name):
    model = Small()
    with pytest.raises(UserError, match=rf"no linear layers in '{name}'"):
        inject(model, LoraConfig(rank=2, modules=["head", name]))
    assert type(model.head) is nn.Linear


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"model\.lora\.rank must be null or at least 1, got 0"):
        LoraConfig(rank=0)
    with pytest.raises(ValueError, match=r"model\.lora\.modules must be a preset .*, got \[\]"):
        LoraConfig(modules=[])
    with pytest.raises(ValueError, match=r"model\.lora\.dropout must be in \[0, 1\), got 1\.0"):
        LoraConfig(dropout=1.0)


def num_trainable(model):
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def test_adapters_alone_are_trained_unless_more_is_named():
    model = Small()
    inject(model, LoraConfig(rank=2, modules=["memory"]))
    freeze(model, None)
    adapters = 2 * (6 + 5) + 2 * (5 + 4)
    assert num_trainable(model) == adapters
    freeze(model, ["head"])
    assert num_trainable(model) == adapters + 3 * 4 + 3


@pytest.mark.parametrize(
    "name", ["memory_attention", "all", "memory_attention.0", "memory_attention.0.weight"]
)
def test_what_has_adapters_cannot_be_trained_in_full(name):
    model = Small()
    inject(model, LoraConfig(rank=2, modules=["memory"]))
    with pytest.raises(UserError, match=r"has adapters: name it there or in model\.lora\.modules"):
        freeze(model, [name])


@pytest.fixture(scope="module")
def config():
    import_sam2()
    return Config(model=ModelConfig(image_size=SIZE, lora=LoraConfig(rank=4)))


def test_presets_name_the_linear_layers_of_sam_2(config):
    def adapted(preset):
        model = build_model(config.model)
        inject(model, LoraConfig(rank=1, modules=[preset]))
        return {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}

    # tiny: 7 blocks of 4 and 3 changes of width; 2 layers of 4 + 4 + 2; 2 layers of 12 + 2, and 4
    encoder, memory, both = (
        adapted(name) for name in ("image_encoder", "memory", "decoder_memory")
    )
    assert len(encoder) == 7 * 4 + 3
    assert len(memory) == 2 * 10
    assert len(both - memory) == 2 * 14 + 4
    assert adapted("all") == encoder | both


def test_a_run_with_adapters_is_exported_merged(config, tmp_path):
    module = SAM2LightningModule(config)
    shake_adapters(module)
    assert num_trainable(module) == sum(
        value.numel() for name, value in module.named_parameters() if "lora_" in name
    )
    stored = dataclasses.asdict(config)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": {"config": stored}}, path)
    assert config_of(stored) == config

    weights = torch.load(export_checkpoint(path), weights_only=True)["model"]
    assert weights.keys() == build_model(config.model).state_dict().keys()
    name = "memory_attention.layers.0.linear1"
    layer = module.model.get_submodule(name)
    expected = layer.weight + layer.lora_b @ layer.lora_a
    assert torch.allclose(weights[f"{name}.weight"], expected, atol=1e-6)


def test_a_checkpoint_without_the_adapters_is_not_resumed(config, tmp_path):
    plain = SAM2LightningModule(Config(model=ModelConfig(image_size=SIZE)))
    content = dict.fromkeys(
        ("pytorch-lightning_version", "epoch", "global_step", "loops", "lr_schedulers")
    )
    content |= {"state_dict": plain.state_dict(), "optimizer_states": []}
    content["hyper_parameters"] = {"config": dataclasses.asdict(plain.config)}
    torch.save(content, tmp_path / "plain.ckpt")
    resumed = dataclasses.replace(config, ckpt_path=str(tmp_path / "plain.ckpt"))
    with pytest.raises(
        UserError, match=r"does not fit the model of this run: use model\.lora\.rank=null"
    ):
        check_resumable(resumed, SAM2LightningModule(resumed).model)


def test_a_checkpoint_with_adapters_is_tracked_with_merged(config, tmp_path):
    module = SAM2LightningModule(config)
    shake_adapters(module)
    path = tmp_path / "last.ckpt"
    stored = {"config": dataclasses.asdict(config)}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": stored}, path)
    found = build_predictor(find(str(path), ModelConfig()), torch.device("cpu")).state_dict()
    merge(module.model)
    for name, value in module.model.state_dict().items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_a_checkpoint_with_adapters_is_no_start_of_a_training(config, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": SAM2LightningModule(config).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"merge them with python -m core\.export"):
        load_weights(build_model(config.model), path)
