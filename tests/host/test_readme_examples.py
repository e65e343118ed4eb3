"""Every Python example of README's "Your own module", run as it stands there."""

import re
from inspect import signature
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from host_fits import NUM_SLOTS, fit, outputs_of

README = Path(__file__).resolve().parents[2] / "README.md"


class SmallModel(torch.nn.Module):
    """Takes SAM 2's place: returns one output per frame."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, NUM_SLOTS, 3, padding=1)

    def forward(self, batch):
        return outputs_of(batch, self.conv)


def find_examples():
    """The fenced Python blocks of the section."""
    section = re.search(r"^## Your own module\n(.*?)(?=^## )", README.read_text(), re.M | re.S)[1]
    return re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)


def modules_of(example):
    """Run an example; return the LightningModules that it defines."""
    names = {"__name__": "example"}
    exec(compile(example, str(README), "exec"), names)
    return [
        value
        for value in names.values()
        if isinstance(value, type)
        and issubclass(value, pl.LightningModule)
        and value.__module__ == "example"
    ]


def make(module_class):
    """Build the module with what its constructor asks for, and an optimizer where it has none."""
    asked = {"model": SmallModel()}
    arguments = {name: asked[name] for name in signature(module_class).parameters}
    if "configure_optimizers" not in vars(module_class):
        module_class.configure_optimizers = lambda self: torch.optim.SGD(self.parameters(), 0.1)
    return module_class(**arguments)


def test_section_has_an_example():
    assert any(modules_of(example) for example in find_examples())


@pytest.mark.parametrize("example", find_examples(), ids=lambda example: f"{len(example)} chars")
def test_example_takes_pictures_in_training_and_validation(example, caplog):
    for module_class in modules_of(example):
        keys = {key for key, _ in fit(make(module_class), num_val_batches=1)}
        assert keys == {"train/composites", "val/composites"}
    assert not [record for record in caplog.records if record.name.startswith("core")]
