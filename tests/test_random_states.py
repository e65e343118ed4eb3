"""Random generators: their states are kept, seeded and put back."""

import random

import numpy as np
import pytest
import torch

from core import random_states

CPU = torch.device("cpu")


def draw(model) -> list[float]:
    """One number of each generator."""
    return [random.random(), np.random.randn(), torch.rand(()).item(), model.random()]


@pytest.fixture
def model():
    before = random_states.capture(CPU, np.random.default_rng(0))
    yield np.random.default_rng(5)
    random_states.restore(before, CPU, np.random.default_rng(0))


def test_restored_generators_draw_the_same_again(model):
    np.random.randn()  # NumPy keeps the second of a pair
    states = random_states.capture(CPU, model)
    drawn = draw(model)
    assert draw(model) != drawn
    random_states.restore(states, CPU, model)
    assert draw(model) == drawn


def test_seeded_states_are_those_of_generators_just_seeded(model):
    random_states.restore(random_states.seeded(7, CPU), CPU, model)
    drawn = draw(model)
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert draw(np.random.default_rng(7)) == drawn


def test_seeding_moves_no_generator(model):
    before = random_states.capture(CPU, model)
    random_states.seeded(7, CPU)
    after = random_states.capture(CPU, model)
    assert torch.equal(before.pop("torch"), after.pop("torch"))
    assert before == after


def test_a_checkpoint_holds_states_that_are_read_without_trust(model, tmp_path):
    states = random_states.capture(CPU, model)
    torch.save(states, tmp_path / "states.ckpt")
    drawn = draw(model)
    read = torch.load(tmp_path / "states.ckpt", weights_only=True)
    random_states.restore(read, CPU, model)
    assert draw(model) == drawn


def test_states_of_older_checkpoints_are_put_back(model):
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": None,
        "model": model.bit_generator.state,
    }
    assert random_states.capture(CPU, model)["numpy"] == states["numpy"]
    assert set(random_states.capture(CPU, model)) == set(states)
    drawn = draw(model)
    random_states.restore(states, CPU, model)
    assert draw(model) == drawn
