"""The data module: batches, order, workers, ranks and resuming."""

import random
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data._utils.pin_memory import pin_memory
from trainings import make_trainer

from core.config import AugmentationConfig, DataConfig, SyntheticConfig
from core.data import VideoDataModule
from core.data.datapoint import _in_floats, normalise


def make_module(seed: int = 0, num_clips: int = 7, **fields) -> VideoDataModule:
    synthetic = SyntheticConfig(num_train_clips=num_clips, num_val_clips=5)
    return VideoDataModule(DataConfig(synthetic=synthetic, num_frames=2, **fields), 32, seed)


def fingerprint(batch) -> tuple:
    videos = batch.metadata.unique_objects_identifier[0, :, 0].unique_consecutive()
    return tuple(videos.tolist()), round(batch.img_batch.double().sum().item(), 6)


def read(loader, epoch: int = 0) -> list[tuple]:
    loader.batch_sampler.set_epoch(epoch)
    return [fingerprint(batch) for batch in loader]


def test_batch_has_the_official_layout():
    batch = next(iter(make_module(batch_size=3).train_dataloader()))
    num_objects = batch.masks.shape[1]
    assert batch.img_batch.shape == (2, 3, 3, 32, 32)
    assert batch.img_batch.dtype == torch.uint8
    assert batch.masks.shape == (2, num_objects, 32, 32)
    assert batch.masks.dtype == torch.bool
    assert batch.obj_to_frame_idx.shape == (2, num_objects, 2)
    videos = batch.obj_to_frame_idx[0, :, 1].tolist()
    assert videos == sorted(videos)
    assert batch.metadata.unique_objects_identifier.shape == (2, num_objects, 3)
    assert batch.dict_key == "all"


def test_bytes_are_normalised_as_before_bit_for_bit():
    module = make_module(batch_size=3)
    batch = next(iter(module.train_dataloader()))
    frames = batch.img_batch.clone()
    module.normalise(batch)
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    expected = (frames.numpy().astype(np.float32) / 255 - mean) / std
    np.testing.assert_array_equal(batch.img_batch.numpy(), expected)
    floats = batch.img_batch
    module.normalise(batch)
    assert batch.img_batch is floats


def test_other_devices_normalise_to_the_same_numbers():
    frames = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)
    on_device = _in_floats(frames)
    torch.testing.assert_close(on_device, normalise(frames), atol=1e-6, rtol=1e-6)


def test_epochs_differ_and_repeat_by_seed():
    first = read(make_module().train_dataloader(), epoch=0)
    assert read(make_module().train_dataloader(), epoch=0) == first
    assert read(make_module().train_dataloader(), epoch=1) != first
    assert read(make_module(seed=1).train_dataloader(), epoch=0) != first


def test_validation_is_always_the_same_and_disjoint_from_training():
    module = make_module()
    first, later = read(module.val_dataloader(), 0), read(module.val_dataloader(), 5)
    assert first == later
    assert [ids for ids, _ in first] == [(0, 1), (2, 3), (4,)]
    train, val = module.datasets["train"], module.datasets["val"]
    assert not torch.equal(train[0].frames[0].data, val[0].frames[0].data)


def test_items_do_not_depend_on_the_number_of_workers():
    augmentation = AugmentationConfig(degrees=20, brightness=0.2)
    alone = make_module(augmentation=augmentation, num_workers=0).train_dataloader()
    workers = make_module(augmentation=augmentation, num_workers=2).train_dataloader()
    assert [read(alone, epoch) for epoch in (0, 1)] == [read(workers, epoch) for epoch in (0, 1)]


def test_a_process_that_hangs_ends_the_wait(monkeypatch):
    monkeypatch.setattr("core.data.module._LONGEST_WAIT_S", 0.5)
    monkeypatch.setattr("core.data.synthetic.SyntheticDataset.__getitem__", hang)
    with pytest.raises(RuntimeError, match="timed out after"):
        next(iter(make_module(num_workers=1).val_dataloader()))


def hang(dataset, key):
    time.sleep(2)


def test_loading_leaves_global_generators_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    module = make_module()
    read(module.train_dataloader())
    read(module.val_dataloader())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("stage", ["train", "val"])
def test_ranks_share_the_clips_evenly(monkeypatch, stage):
    module = make_module()
    per_rank = []
    for rank in range(2):
        monkeypatch.setattr("core.data.loader.world", lambda rank=rank: (rank, 2))
        loader = getattr(module, f"{stage}_dataloader")()
        batches = [ids for ids, _ in read(loader)]
        assert len(batches) == len(loader)
        per_rank.append([index for ids in batches for index in ids])
    assert len(per_rank[0]) == len(per_rank[1])
    assert set(per_rank[0]) | set(per_rank[1]) == set(range(7 if stage == "train" else 5))
    assert len(per_rank[0]) + len(per_rank[1]) == (8 if stage == "train" else 6)


def test_clip_names_follow_the_batch():
    module = make_module()
    batch = next(iter(module.val_dataloader()))
    video = batch.metadata.unique_objects_identifier[0, 0, 0]
    assert module.clip_name("val", video) == "synthetic_val_00000"
    assert module.object_names("val", video) is None
    assert (module.category_names, module.num_categories) == (None, None)
    assert not module.category_layout


@pytest.mark.parametrize(
    ("accelerator", "pinned"), [(CUDAAccelerator, True), (CPUAccelerator, False)]
)
def test_batches_are_pinned_for_cuda_alone(accelerator, pinned):
    module = make_module()
    assert not module.train_dataloader().pin_memory
    module.trainer = SimpleNamespace(accelerator=accelerator())
    assert module.train_dataloader().pin_memory is pinned
    assert module.val_dataloader().pin_memory is pinned


def test_pinning_a_batch_pins_every_tensor_and_keeps_the_rest(monkeypatch):
    batch, pinned = next(iter(make_module().val_dataloader())), []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone()
    )
    # as the DataLoader does it
    copy = pin_memory(batch)
    assert {id(tensor) for tensor in pinned} == {
        id(tensor)
        for tensor in (
            batch.img_batch, batch.masks, batch.obj_to_frame_idx,
            batch.metadata.unique_objects_identifier, batch.metadata.frame_orig_size,
        )
    }  # fmt: skip
    assert type(copy) is type(batch)
    assert (copy.dict_key, copy.num_frames, copy.num_videos) == ("all", 2, 2)
    assert torch.equal(copy.masks, batch.masks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_pinned_batches_are_the_same_and_move_no_generator(monkeypatch, num_workers):
    module = make_module(num_workers=num_workers)
    expected = read(module.train_dataloader())
    module.trainer = SimpleNamespace(accelerator=CUDAAccelerator())
    monkeypatch.setattr(module, "_progress", lambda: None)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert read(module.train_dataloader()) == expected
    assert all(batch.img_batch.is_pinned() for batch in module.val_dataloader())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


class Recorder(LightningModule):
    """Trains nothing and remembers the batches that it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []
        self.fail_at = None

    def training_step(self, batch, batch_idx):
        if self.global_step == self.fail_at:
            raise RuntimeError("stop here")
        self.seen.append((self.current_epoch, batch_idx, fingerprint(batch)))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("step", float(self.global_step), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module, tmp_path, callbacks=(), ckpt_path=None, **options) -> list:
    recorder = Recorder()
    recorder.fail_at = options.pop("fail_at", None)
    trainer = make_trainer(
        tmp_path,
        callbacks=callbacks,
        max_steps=10,
        max_epochs=-1,
        use_distributed_sampler=False,
        enable_checkpointing=bool(callbacks),
        **{"limit_val_batches": 1, **options},
    )
    try:
        trainer.fit(recorder, module, ckpt_path=ckpt_path)
    except RuntimeError as error:
        if str(error) != "stop here":
            raise
    return recorder.seen


def every_step(tmp_path) -> ModelCheckpoint:
    return ModelCheckpoint(tmp_path, "step{step}", every_n_train_steps=1, save_top_k=-1)


def every_validation(tmp_path) -> ModelCheckpoint:
    return ModelCheckpoint(tmp_path, "val{step}", monitor="step", save_top_k=-1)


def every_epoch(tmp_path) -> ModelCheckpoint:
    return ModelCheckpoint(
        tmp_path, "epoch{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True
    )


@pytest.mark.parametrize(
    ("make_checkpoints", "options"),
    [
        (every_step, {"limit_val_batches": 0}),
        (every_step, {}),
        (every_step, {"val_check_interval": 3, "check_val_every_n_epoch": None}),
        (every_validation, {"val_check_interval": 3, "check_val_every_n_epoch": None}),
        (every_validation, {"val_check_interval": 2}),
        (every_epoch, {}),
        (every_epoch, {"limit_train_batches": 3}),
        (every_epoch, {"limit_val_batches": 0}),
    ],
    ids=["step", "step-val", "step-val3", "val3", "val2", "epoch", "epoch-limit", "epoch-no-val"],
)
def test_resuming_continues_with_exactly_the_missing_batches(tmp_path, make_checkpoints, options):
    whole = fit(make_module(), tmp_path, [make_checkpoints(tmp_path)], **options)
    assert len(whole) == 10
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert checkpoints
    for path in checkpoints:
        done = torch.load(path, weights_only=False)["global_step"]
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*not resumable.*")
            rest = fit(make_module(), tmp_path, ckpt_path=path, **options)
        assert [batch for *_, batch in rest] == [batch for *_, batch in whole[done:]], path.name


def test_resuming_in_an_epoch_of_several_data_sets_continues_with_the_missing_batches(tmp_path):
    def module():
        sources = [{"source": "synthetic", "name": name, "weight": 1} for name in ("a", "b")]
        sources[1]["num_frames"] = 3
        return make_module(num_clips=5, sources=sources)

    options = {"limit_val_batches": 0}
    whole = fit(module(), tmp_path, [every_step(tmp_path)], **options)
    assert {len(ids) for _, _, (ids, _) in whole} == {2}
    for step in (2, 7):
        path = next(tmp_path.glob(f"*step={step}.ckpt"))
        assert fit(module(), tmp_path, ckpt_path=path, **options) == whole[step:]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("before", "after", "step"), [(1, 2, 7), (1, 2, 6), (2, 1, 3), (3, 2, 1)])
def test_resuming_with_another_batch_size_trains_on_every_clip_once(
    tmp_path, before, after, step, num_workers
):
    def module(batch_size):
        return make_module(num_clips=10, batch_size=batch_size, num_workers=num_workers)

    def videos(batches):
        return [video for *_, (ids, _) in batches for video in ids]

    options = {"limit_val_batches": 0}
    whole = videos(fit(module(1), tmp_path, **options))
    fit(module(before), tmp_path, [every_step(tmp_path)], **options)
    path = next(tmp_path.glob(f"*step={step}.ckpt"))
    rest = videos(fit(module(after), tmp_path, ckpt_path=path, **options))
    left = whole[before * step : 10]
    assert rest[: len(left)] == left


def test_workers_start_each_epoch_anew_when_epochs_are_cut_short(tmp_path):
    options = {"limit_val_batches": 0, "limit_train_batches": 2}
    alone = fit(make_module(), tmp_path, **options)
    assert fit(make_module(num_workers=1), tmp_path, **options) == alone


def test_resuming_with_workers_does_not_skip_what_was_fetched_ahead(tmp_path):
    options = {"limit_val_batches": 0}
    whole = fit(make_module(num_workers=1), tmp_path, [every_step(tmp_path)], **options)
    path = next(tmp_path.glob("*step=6.ckpt"))
    rest = fit(make_module(num_workers=1), tmp_path, ckpt_path=path, **options)
    assert rest == whole[6:]


def test_a_batch_that_failed_is_trained_on_after_resuming(tmp_path):
    options = {"limit_val_batches": 0}
    whole = fit(make_module(), tmp_path, **options)
    fit(make_module(), tmp_path, [OnExceptionCheckpoint(tmp_path, "failed")], fail_at=6, **options)
    rest = fit(make_module(), tmp_path, ckpt_path=tmp_path / "failed.ckpt", **options)
    assert rest == whole[6:]


def test_accumulated_batches_are_not_replayed_after_resuming(tmp_path):
    options = {"limit_val_batches": 0, "accumulate_grad_batches": 2}
    whole = fit(make_module(), tmp_path, [every_step(tmp_path)], **options)
    path = next(tmp_path.glob("*step=3.ckpt"))
    rest = fit(make_module(), tmp_path, ckpt_path=path, **options)
    assert rest == whole[6:]


class EpochStart(Callback):
    """Saves a checkpoint between two epochs."""

    def __init__(self, path) -> None:
        self.path = path

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


def test_state_between_epochs_belongs_to_the_new_epoch(tmp_path):
    path = tmp_path / "start.ckpt"
    fit(make_module(), tmp_path, [EpochStart(path)], limit_val_batches=0)
    state = torch.load(path, weights_only=False)["loops"]["fit_loop"]["state_dict"]
    assert state["combined_loader"] == [{"epoch": 1, "batches": 0, "clips": 0}]
