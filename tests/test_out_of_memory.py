"""Steps for which memory does not suffice: what the run says, and what it skips."""

import copy
import dataclasses
import errno
import re

import cv2
import lightning.pytorch as pl
import pytest
import torch
from processes import TINY, TrainProcess, run_apart, run_here
from trainings import assert_same_weights, make_trainer, our_warnings

from core.config import Config, DataConfig, LoraConfig, ModelConfig, TrainerConfig
from core.data import VideoDataModule
from core.out_of_memory import changes_of, is_out_of_memory
from core.run import check_skipping
from core.trainer import SAM2LightningModule

FAILURE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (FAILURE, True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried ..."), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("The size of tensor a (2) must match"), False),
        (OSError(errno.ENOENT, "out of memory.png"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_errors_of_all_allocators_are_known(error, is_one):
    assert is_out_of_memory(error) is is_one


def test_opencv_is_out_of_memory_too():
    with pytest.raises(cv2.error, match="memory") as found:
        cv2.resize(torch.zeros(1, 1).numpy(), (2**30, 2**30))
    assert is_out_of_memory(found.value)


def names(config, **how):
    return [change.overrides.split("=")[0] for change in changes_of(config, **how)]


def test_of_several_data_sets_the_one_with_the_largest_batches_is_made_smaller():
    sources = [{"source": "synthetic", "num_frames": 2, "batch_size": 3}, {"source": "synthetic"}]
    sources[1] |= {"name": "long", "num_frames": 8}
    overrides = [
        change.overrides for change in changes_of(Config(data=DataConfig(sources=sources)))
    ]
    assert overrides[0] == "data.sources.1.batch_size=1 trainer.accumulate_grad_batches=2"
    assert "data.sources.1.num_frames=6" in overrides


def test_the_cheapest_changes_come_first_and_what_is_set_is_left_out():
    config = Config()
    assert [change.overrides for change in changes_of(config)][:3] == [
        "data.batch_size=1 trainer.accumulate_grad_batches=2",
        "model.activation_checkpointing=image_encoder",
        "trainer.precision=bf16-mixed",
    ]
    config = Config(
        model=ModelConfig(trainable_modules="memory", activation_checkpointing="all"),
        data=DataConfig(batch_size=1),
        trainer=TrainerConfig(precision="bf16-mixed"),
    )
    assert names(config) == ["data.num_frames", "model.image_size"]
    assert names(Config(), validating=True) == [
        "data.val_batch_size", "trainer.precision", "data.val_num_frames", "model.image_size",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "fewer"),
    [
        ({"prompt_type": "point", "num_frames_to_correct": 8}, None),
        ({"prompt_type": "point", "num_frames_to_correct": 7}, 7),
        ({"prompt_type": "point", "num_frames_to_correct": 2}, 6),
        ({"prompt_type": "mask", "num_frames_to_correct": 8}, 6),  # masks are not corrected
        ({"prompt_type": "mixed", "num_frames_to_correct": 6, "num_init_cond_frames": 6}, 7),
    ],
)
def test_clips_become_no_shorter_than_their_prompts_allow(model, fewer):
    config = Config(model=ModelConfig(**model), data=DataConfig(num_frames=8))
    found = [change.overrides for change in changes_of(config) if "num_frames" in change.overrides]
    assert found == ([] if fewer is None else [f"data.num_frames={fewer}"])
    shorter = dataclasses.replace(config.data, num_frames=fewer or 8)
    dataclasses.replace(config, data=shorter)  # is allowed


def test_a_checkpoint_is_resumed_with_the_same_weights_trained():
    assert "model.trainable_modules" in names(Config())
    assert "model.trainable_modules" not in names(Config(), resumes=True)
    adapters = Config(model=ModelConfig(lora=LoraConfig(rank=4)))
    assert "model.trainable_modules" not in names(adapters)


def test_skipping_needs_one_process():
    skip = TrainerConfig(on_out_of_memory="skip")
    check_skipping(skip, 1)
    check_skipping(TrainerConfig(), 2)
    with pytest.raises(ValueError, match=r"on_out_of_memory=skip needs one process, got 2"):
        check_skipping(skip, 2)


class Failing(SAM2LightningModule):
    """Runs out of memory in some batches, in the forward or the backward pass."""

    def __init__(self, config, batches, backward):
        super().__init__(config)
        self.batches, self.in_backward = batches, backward
        self.weights = []

    def _train_on(self, batch, batch_idx):
        if batch_idx in self.batches and not self.in_backward:
            raise FAILURE
        loss = super()._train_on(batch, batch_idx)
        if batch_idx in self.batches:
            # Other gradients are there by then.
            weight = self.model.image_encoder.trunk.patch_embed.proj.weight
            self.hook = weight.register_hook(self.fail)
        return loss

    def fail(self, gradient):
        self.hook.remove()
        raise FAILURE

    def on_train_batch_end(self, *args):
        self.weights.append(copy.deepcopy(self.model.state_dict()))


def train(tmp_path, batches, *, backward=False, accumulate=1, most=2):
    config = Config(
        model=ModelConfig(image_size=64),
        data=DataConfig(num_frames=2, batch_size=1),
        trainer=TrainerConfig(on_out_of_memory="skip", max_skipped_in_a_row=most, max_steps=3),
    )
    pl.seed_everything(0, verbose=False)
    module = Failing(config, batches, backward)
    trainer = make_trainer(
        tmp_path,
        max_steps=3,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, VideoDataModule(config.data, 64, seed=0))
    return module, trainer


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_with_a_failed_batch_is_dropped_whole(tmp_path, caplog, backward):
    # Steps of two batches: of the second step the first one fails.
    module, trainer = train(tmp_path, {2}, backward=backward, accumulate=2)
    after = module.weights[1::2]
    assert_same_weights(after[1], after[0])
    changed = "image_encoder.neck.convs.0.conv.weight"
    assert not torch.equal(after[2][changed], after[1][changed])
    assert trainer.global_step == 3
    assert module.skipper.total == 1
    assert [record.getMessage() for record in our_warnings(caplog)] == [
        "a batch ran out of memory and was skipped (1 so far)"
    ]


def test_what_is_skipped_in_a_row_is_limited(tmp_path):
    module, _ = train(tmp_path, {0, 1})
    assert module.skipper.total == 2
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        train(tmp_path, {0, 1, 2})


def test_a_run_ends_in_one_sentence(tmp_path, monkeypatch):
    def run_out(self, batch, batch_idx):
        raise FAILURE

    monkeypatch.setattr(SAM2LightningModule, "_train_on", run_out)
    said = run_here(monkeypatch, tmp_path, *TINY, "logger=csv", "data.batch_size=2")
    assert re.fullmatch(
        r"error: out of memory in training step 1 at a peak of \d+\.\d\d GiB resident; "
        r"the cheapest changes: data\.batch_size=1 trainer\.accumulate_grad_batches=2 \(saves "
        r"about 50 %.*; as many clips per step as now\), "
        r"model\.activation_checkpointing=image_encoder \(.*\), "
        r"trainer\.precision=bf16-mixed \(.*\); "
        r"start again with the same command plus one of them; "
        r"python -m core\.plan with the same settings says what fits",
        said,
    )


LIMIT_ADDRESSES = """
import resource
from pathlib import Path
from core.official import import_sam2
import_sam2()
from core.trainer import SAM2LightningModule
def limit(self):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
SAM2LightningModule.on_train_start = limit
"""


@pytest.mark.slow
def test_a_limit_of_addresses_ends_in_one_sentence(tmp_path):
    ended = run_apart(
        *TINY,
        "logger=csv",
        "model.image_size=256",
        "data.batch_size=4",
        f"hydra.run.dir={tmp_path}",
        before=LIMIT_ADDRESSES,
    )
    assert ended.returncode == 1
    assert "error: out of memory in training step 1 at a peak of" in ended.stderr
    assert "data.batch_size=2 trainer.accumulate_grad_batches=2" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "rank", [pytest.param(1, marks=pytest.mark.slow), pytest.param(0, marks=pytest.mark.long)]
)
def test_all_ranks_end_with_the_sentence_of_the_one_that_failed(tmp_path, rank):
    train = TrainProcess(
        tmp_path,
        "trainer.devices=2",
        "trainer.checkpoint_every_n_steps=2",
        driver=["--rank-without-memory", str(rank)],
    )
    assert train.end(120) != 0
    sentence = f"error: out of memory in training step 3 of rank {rank} at a peak of"
    assert train.output.count(sentence) == 1
    assert f"plus ckpt_path={train.run_dir.name}/checkpoints/last.ckpt" in train.output
