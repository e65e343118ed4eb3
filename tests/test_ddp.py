"""Two processes: one draws, and whatever happens to its pictures, both train on the same."""

import re

import pytest
from fault_helpers import TrainProcess, png_files

DDP = (
    "trainer.devices=2",
    "trainer.strategy=ddp_find_unused_parameters_true",
    "data.synthetic.num_train_clips=6",  # the last batch of each rank is smaller
    "data.synthetic.num_val_clips=3",
    "data.synthetic.min_objects=1",
    "data.synthetic.max_objects=3",  # of each clip, so of each rank, another number
    "data.batch_size=2",
    "trainer.max_steps=5",
    "model.prompt_type=mixed",
    "model.num_correction_points=1",
)


def start(tmp_path, *overrides, fail=None):
    driver = ["--digest"] if fail is None else ["--digest", "--fail", fail]
    return TrainProcess(tmp_path, *DDP, *overrides, driver=driver)


def weights_of_ranks(train):
    """End the training and return the digest of each rank's weights."""
    assert train.end() == 0, train.output
    return dict(re.findall(r"rank (\d) weights (\w{64})", train.output))


def check_same_weights(trainings):
    weights = [weights_of_ranks(training) for training in trainings]
    assert set(weights[0]) == {"0", "1"}
    assert weights[0]["0"] == weights[0]["1"]
    assert all(other == weights[0] for other in weights)


def steps_of_pictures(train):
    return sorted(int(path.name.split("-")[0]) for path in png_files(train.log_dir))


def test_one_rank_draws_and_a_broken_renderer_hangs_nobody(tmp_path):
    off = start(tmp_path / "off", "visualizations.enabled=false", "logger=csv")
    on = start(tmp_path / "on", "trainer.limit_val_batches=0", fail="renderer")
    check_same_weights([off, on])
    # Every other picture fails; were both ranks to draw, there would be twice as many.
    assert on.num_taken() == 5
    assert steps_of_pictures(on) == [0, 2, 4]
    assert len(list(on.log_dir.glob("run-*"))) == 1
    assert on.output.count("drawing or logging failed") == 1


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_faults_on_rank_zero_hang_nobody(accumulate, tmp_path):
    more = f"trainer.accumulate_grad_batches={accumulate}"
    off = start(tmp_path / "off", "visualizations.enabled=false", more)
    trainings = [off]
    for fail in (None, "renderer", "encoder", "logger"):
        training = start(tmp_path / f"{fail}", more, "visualizations.worst_clips=1", fail=fail)
        check_same_weights([off, training])
        trainings.append(training)
    assert steps_of_pictures(trainings[1])[0] == 0
    assert len(steps_of_pictures(trainings[1])) == trainings[1].num_taken()


@pytest.mark.slow
def test_resumed_ranks_are_the_uninterrupted_ones(tmp_path):
    options = ("scheduler=constant", "scheduler.warmup_fraction=0")
    whole = start(tmp_path / "whole", *options)
    weights = weights_of_ranks(whole)
    first = start(tmp_path / "first", *options, "trainer.max_steps=3")
    weights_of_ranks(first)
    checkpoint = first.run_dir / "checkpoints" / "last.ckpt"
    second = start(tmp_path / "second", *options, f"ckpt_path={checkpoint}")
    assert weights_of_ranks(second) == weights
