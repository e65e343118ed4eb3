"""Parameter groups and learning-rate schedule."""

import fnmatch

import pytest
import torch
from torch import nn

from core.config import ModelConfig, OptimizerConfig, SchedulerConfig
from core.model.build import build_model
from core.model.freezing import freeze
from core.optim import build_optimizer, build_scheduler, parameter_groups


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(ModelConfig(image_size=64))


def settings_by_name(model, config):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config)
        for parameter in group["params"]
    }


def test_groups_hold_every_trainable_parameter_once(model):
    freeze(model, ["memory", "image_encoder"])
    groups = parameter_groups(model, OptimizerConfig(layer_decay=0.9))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


def test_norms_and_biases_get_no_weight_decay(model):
    settings = settings_by_name(model, OptimizerConfig(weight_decay=0.1))
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
    }
    assert len(norms) > 20
    for name, parameter in model.named_parameters():
        spared = name in norms or name.endswith("bias") or parameter.ndim == 1
        assert settings[name][1] == (0.0 if spared else 0.1), name


def test_image_encoder_has_its_own_rate(model):
    settings = settings_by_name(model, OptimizerConfig(lr=1e-3, image_encoder_lr=1e-4))
    for name, (lr, _) in settings.items():
        assert lr == (1e-4 if name.startswith("image_encoder.") else 1e-3)


def test_layer_decay_equals_the_official_modifier(model):
    from training.optimizer import layer_decay_param_modifier

    config = OptimizerConfig(lr=1e-3, image_encoder_lr=1e-4, layer_decay=0.9)
    settings = settings_by_name(model, config)
    encoder = {name for name in settings if fnmatch.fnmatchcase(name, "image_encoder.*")}
    official = layer_decay_param_modifier(
        [
            [
                {
                    "option": "lr",
                    "scheduler": lambda where: 1e-3,
                    "parameter_names": set(settings) - encoder,
                },
                {"option": "lr", "scheduler": lambda where: 1e-4, "parameter_names": encoder},
            ]
        ],
        model,
        layer_decay_value=0.9,
        apply_to="image_encoder.trunk",
        overrides=[{"pattern": "*pos_embed*", "value": 1.0}],
    )
    compared = 0
    for group in official[0]:
        for name in group["parameter_names"]:
            assert settings[name][0] == pytest.approx(group["scheduler"](0.0)), name
            compared += 1
    assert compared == len(settings)


def test_group_names_are_unique(model):
    names = [group["name"] for group in parameter_groups(model, OptimizerConfig(layer_decay=0.9))]
    assert len(names) == len(set(names))


def test_without_layer_decay_there_are_four_groups(model):
    assert len(parameter_groups(model, OptimizerConfig())) == 4


def test_nothing_trainable_is_refused(model):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"model\.trainable_modules leaves no parameter to train"):
        parameter_groups(model, OptimizerConfig())


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_optimizer_is_the_one_named(model, name, kind):
    optimizer = build_optimizer(model, OptimizerConfig(name=name, betas=[0.8, 0.99]))
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.99)


def rates(config, num_steps, extra_steps=0):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW(
        [{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 0.1}]
    )
    scheduler = build_scheduler(optimizer, config, num_steps)
    values = []
    for _ in range(num_steps + extra_steps):
        values.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(values)


def test_warm_up_rises_linearly_to_the_peak():
    values = rates(SchedulerConfig(name="constant", warmup_fraction=0.25), 40)[:, 0]
    torch.testing.assert_close(values[:10], torch.arange(1, 11) / 11)
    assert (values[10:] == 1.0).all()


def test_cosine_ends_at_the_final_ratio():
    values = rates(SchedulerConfig(name="cosine", warmup_fraction=0.1, final_lr_ratio=0.01), 50)
    assert values[5, 0] == 1.0
    assert values[-1, 0] == pytest.approx(0.01)
    assert (values[5:, 0].diff() < 0).all()


def test_groups_keep_their_share_of_the_peak():
    values = rates(SchedulerConfig(), 20)
    torch.testing.assert_close(values[:, 1], values[:, 0] * 0.1)


def test_steps_past_the_end_keep_the_last_rate():
    values = rates(SchedulerConfig(final_lr_ratio=0.1), 10, extra_steps=5)[:, 0]
    torch.testing.assert_close(values[9:], torch.full((6,), 0.1))


def test_a_single_step_trains_at_the_peak():
    assert rates(SchedulerConfig(), 1)[0, 0] == 1.0


def test_no_steps_are_refused():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        build_scheduler(optimizer, SchedulerConfig(), 0)
