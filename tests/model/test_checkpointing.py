"""Activation checkpointing: what is computed twice, and that gradients stay the same."""

from collections import Counter

import pytest
import torch
from fakes import visualizations
from scenes import moving_squares

from core.config import CHECKPOINTING, Config, ModelConfig, model_config_of
from core.trainer import CORE_LOSS, SAM2LightningModule

SIZE, NUM_CLICKS = 64, 2
PARTS = {
    "image_encoder": lambda module: module.model.image_encoder.trunk.blocks[1].norm1,
    "clicks": lambda module: module.model.sam_mask_decoder.transformer,
    "memory_attention": lambda module: module.model.memory_attention.layers[1].norm1,
}


def step(choice):
    """Return the gradients of one step, and how often each part was computed before and after."""
    torch.manual_seed(0)
    model = ModelConfig(
        image_size=SIZE,
        prompt_type="point",
        num_correction_points=NUM_CLICKS,
        activation_checkpointing=choice,
    )
    module = SAM2LightningModule(Config(model=model, visualizations=visualizations(enabled=False)))
    calls = Counter()
    for name, part in PARTS.items():
        part(module).register_forward_hook(lambda *_, name=name: calls.update([name]))
    update_losses = module.loss._update_losses

    def count(*args):
        calls.update(["loss"])
        update_losses(*args)

    module.loss._update_losses = count
    torch.manual_seed(1)
    batch = moving_squares()
    loss = module.loss(module(batch), batch.masks)[CORE_LOSS]
    before = dict(calls)
    loss.backward()
    return {n: p.grad for n, p in module.named_parameters()}, before, dict(calls)


@pytest.fixture(scope="module")
def plain():
    return step("none")


@pytest.mark.parametrize("choice", CHECKPOINTING[1:])
def test_gradients_are_the_same_and_the_part_alone_is_computed_twice(plain, choice):
    gradients, before, after = step(choice)
    expected, once, never_again = plain
    assert before == once == never_again
    again = {name for name in after if after[name] > before[name]}
    assert again == ({*PARTS, "loss"} if choice == "all" else {choice})
    if choice == "clicks":  # the correction clicks of the first frame, not what comes before them
        assert after[choice] - before[choice] == NUM_CLICKS
    assert expected["model.image_encoder.trunk.patch_embed.proj.weight"].abs().sum() > 0
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        same = (
            gradients[name] is None if gradient is None else torch.equal(gradients[name], gradient)
        )
        assert same, name


@pytest.mark.parametrize(("stored", "meant"), [(True, "image_encoder"), (False, "none")])
def test_true_and_false_of_older_checkpoints_are_understood(stored, meant):
    assert model_config_of({"activation_checkpointing": stored}).activation_checkpointing == meant
