"""The same seed gives the same run: on a CPU by default, however busy the machine is."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from processes import TrainProcess
from trainings import assert_same_weights

from core.config import TrainerConfig
from core.run import trainer_arguments


@pytest.fixture(autouse=True)
def algorithms_as_before():
    """Lightning's Trainer sets this for the whole process."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def pretended_cuda(monkeypatch):
    """One GPU that a Trainer believes in."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def trainer_of(**fields):
    arguments = trainer_arguments(TrainerConfig(**fields))
    return pl.Trainer(**arguments, logger=False, enable_checkpointing=False)


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
@pytest.mark.parametrize(("setting", "expected"), [(None, True), (True, True), (False, False)])
def test_algorithms_are_deterministic_on_a_cpu_unless_refused(
    monkeypatch, accelerator, setting, expected
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    trainer = trainer_of(accelerator=accelerator, deterministic=setting)
    assert isinstance(trainer.accelerator, CPUAccelerator)
    assert torch.are_deterministic_algorithms_enabled() is expected


@pytest.mark.usefixtures("pretended_cuda")
@pytest.mark.parametrize("accelerator", ["auto", "cuda", "gpu"])
def test_algorithms_on_cuda_stay_as_pytorch_has_them(accelerator):
    trainer = trainer_of(accelerator=accelerator)
    assert isinstance(trainer.accelerator, CUDAAccelerator)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("pretended_cuda")
@pytest.mark.parametrize("setting", [True, "warn"])
def test_algorithms_on_cuda_are_deterministic_if_asked_for(setting):
    trainer_of(accelerator="cuda", deterministic=setting)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() == (setting == "warn")


@pytest.mark.usefixtures("pretended_cuda")
def test_a_cpu_beside_an_unused_gpu_is_a_cpu():
    trainer_of(accelerator="cpu")
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_weights_are_the_same_bit_for_bit_beside_other_work(tmp_path):
    """Each of the first two is the other's load; four threads share what cores there are."""
    overrides = (
        "model.image_size=128",
        "data.num_frames=4",
        "data.batch_size=2",
        "data.synthetic.max_objects=3",
        "trainer.val_check_interval=4",
        "visualizations.enabled=false",
    )
    # Passive: threads without work do not keep the others from theirs.
    threads = {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}
    pair = [TrainProcess(tmp_path / name, *overrides, env=threads) for name in ("a", "b")]
    assert [train.end() for train in pair] == [0, 0]
    alone = TrainProcess(tmp_path / "c", *overrides, env=threads)
    assert alone.end() == 0
    for train in pair:
        assert_same_weights(train.last_weights(), alone.last_weights())
