"""Pictures that were taken are on disk, however a run ends, and ending takes a bounded time."""

import json
import signal
import threading
import time

import lightning.pytorch as pl
import pytest
from fakes import SketchModule, visualizations
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from processes import (
    SLURM,
    TrainProcess,
    path_with_scontrol,
    png_files,
    wait_until_requeued,
)
from scenes import clips
from trainings import make_trainer

from core.visualization import publisher, visualizer


@pytest.fixture
def swanlab_logger(tmp_path):
    """SwanLab's own logger, writing below `tmp_path`."""
    import swanlab
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    yield SwanLabLogger(project="flush", mode="local", log_dir=str(tmp_path / "swanlog"))
    if swanlab.has_run():
        swanlab.finish()


@pytest.fixture
def taken(monkeypatch):
    """Drawing is slower than training; what was taken is remembered."""
    events = []
    draw, take = publisher.draw_sheets, visualizer.take_snapshot

    def slowly(*args):
        time.sleep(0.05)
        return draw(*args)

    def remember(batch, outs, moment, *args, **kwargs):
        events.append((moment.stage, moment.step))
        return take(batch, outs, moment, *args, **kwargs)

    monkeypatch.setattr(publisher, "draw_sheets", slowly)
    monkeypatch.setattr(visualizer, "take_snapshot", remember)
    return events


def readable_pictures(log_dir):
    files = png_files(log_dir)
    for file in files:
        with Image.open(file) as image:
            image.load()
            assert image.width > 100
    return files


def finish_and_count(log_dir):
    import swanlab

    swanlab.finish()
    return len(readable_pictures(log_dir))


def test_everything_is_on_disk_after_fit_and_validate_with_one_logger(
    tmp_path, swanlab_logger, taken
):
    module = SketchModule(visualizations())
    trainer = make_trainer(tmp_path, swanlab_logger, limit_val_batches=1)
    trainer.fit(module, clips(8), clips(2))
    num_fitted = len(taken)
    trainer.validate(module, clips(2), verbose=False)
    assert len(taken) > num_fitted >= 5
    assert finish_and_count(tmp_path / "swanlog") == len(taken)


def test_everything_is_on_disk_after_an_exception_in_training(tmp_path, swanlab_logger, taken):
    class Break(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 4:
                raise ZeroDivisionError("injected")

    trainer = make_trainer(tmp_path, swanlab_logger, [Break()])
    with pytest.raises(ZeroDivisionError, match="injected"):
        trainer.fit(SketchModule(visualizations()), clips(16))
    # SwanLabLogger closes its run when Lightning says that training failed.
    assert len(readable_pictures(tmp_path / "swanlog")) == len(taken) == 5


def test_everything_is_on_disk_after_early_stopping(tmp_path, swanlab_logger, taken):
    stop = EarlyStopping("val_loss", patience=1, mode="max", min_delta=1e9)
    trainer = make_trainer(
        tmp_path, swanlab_logger, [stop], max_epochs=10, check_val_every_n_epoch=1
    )
    trainer.fit(SketchModule(visualizations()), clips(4), clips(2))
    assert trainer.current_epoch < 9
    assert finish_and_count(tmp_path / "swanlog") == len(taken) > 4


def test_dead_worker_does_not_keep_its_pictures(tmp_path, swanlab_logger, taken, monkeypatch):
    # Not even the worker's own guard runs: as if the interpreter had ended the thread.
    guard, deaths, all_taken = publisher.Publisher._guard, [], threading.Event()

    def die_once(self, doing, draw):
        if not deaths:
            deaths.append(doing)
            assert all_taken.wait(20)
            raise SystemExit
        guard(self, doing, draw)

    class Tell(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            all_taken.set()

    monkeypatch.setattr(publisher.Publisher, "_guard", die_once)
    trainer = make_trainer(tmp_path, swanlab_logger, [Tell()])
    trainer.fit(SketchModule(visualizations()), clips(10))
    assert deaths
    assert finish_and_count(tmp_path / "swanlog") == len(taken) - 1 == 4


# train.py, ended from outside


def end_after_pictures(tmp_path, signum, num_pictures=3, **options):
    """Send a signal with pictures taken that are not drawn yet; return the ended process."""
    train = TrainProcess(
        tmp_path,
        "trainer.max_steps=100000",
        "trainer.val_check_interval=3",
        "data.synthetic.num_val_clips=1",
        "visualizations.max_pending=4",  # so many are still to be drawn when the signal comes
        driver=["--draw-s", "0.2"],
        **options,
    )
    # The 4th step follows the first validation and its checkpoint.
    train.wait_for("picture taken", num_pictures + 5)
    train.send(signum)
    return train


def check_nothing_lost(train, status):
    assert train.end() == status, train.output
    num_taken = train.num_taken()
    assert len(readable_pictures(train.log_dir)) == num_taken >= 6
    assert (train.run_dir / "checkpoints" / "last.ckpt").is_file()
    assert "dropped:" not in train.output


def test_everything_is_on_disk_after_ctrl_c(tmp_path):
    check_nothing_lost(end_after_pictures(tmp_path, signal.SIGINT), 130)


@pytest.mark.long
def test_everything_is_on_disk_after_sigterm_under_slurm(tmp_path):
    train = end_after_pictures(tmp_path, signal.SIGTERM, env=SLURM)
    check_nothing_lost(train, 143)
    assert "SLURM auto-requeueing enabled" in train.output


@pytest.mark.slow
def test_everything_is_on_disk_after_sigterm(tmp_path):
    check_nothing_lost(end_after_pictures(tmp_path, signal.SIGTERM), 143)


@pytest.mark.slow
@pytest.mark.long
def test_pictures_after_a_slurm_requeue_signal_are_on_disk(tmp_path):
    env = {**SLURM, "PATH": path_with_scontrol(tmp_path)}
    train = end_after_pictures(tmp_path, signal.SIGUSR1, env=env)
    wait_until_requeued(train)
    train.send(signal.SIGTERM)
    check_nothing_lost(train, 143)
    assert list(train.run_dir.glob("hpc_ckpt_*.ckpt"))


@pytest.mark.slow
def test_everything_is_on_disk_after_an_exception_in_train_py(tmp_path):
    train = TrainProcess(
        tmp_path, "trainer.max_steps=8", driver=["--draw-s", "0.3", "--fail", "training"]
    )
    assert train.end() == 1
    assert "RuntimeError: injected" in train.output
    assert len(readable_pictures(train.log_dir)) == train.num_taken() >= 3
    assert (train.run_dir / "checkpoints" / "last.ckpt").is_file()


# Bounded time


@pytest.mark.slow
def test_ending_is_bounded_when_logger_and_swanlab_hang(tmp_path):
    train = TrainProcess(
        tmp_path,
        "visualizations.flush_timeout_s=1",
        "swanlab.finish_timeout_s=1",
        driver=["--draw-s", "1000", "--hang-in-finish"],
    )
    train.wait_for("epoch trained")
    started = time.monotonic()
    assert train.end() == 0, train.output
    assert time.monotonic() - started < 20
    assert f"{train.num_taken()} pictures were dropped" in train.output
    assert train.output.count("dropped: they were not logged") == 1
    assert train.output.count("SwanLab did not close its run") == 1
    assert (train.run_dir / "weights" / "last.pt").is_file()


# After SIGKILL


def num_pictures_in_dashboard(log_dir):
    return sum(file.read_text().count(".png") for file in log_dir.glob("run-*/logs/*/*.log"))


@pytest.mark.slow
def test_dashboard_opens_a_run_that_was_killed(tmp_path, dashboard):
    # Killed with its run open and everything written, which SwanLab does every few seconds.
    train = TrainProcess(tmp_path, "swanlab.finish_timeout_s=1000", driver=["--hang-in-finish"])
    train.wait_for("epoch trained")
    deadline = time.monotonic() + 60
    while num_pictures_in_dashboard(train.log_dir) < train.num_taken():
        assert time.monotonic() < deadline, train.output
        time.sleep(0.1)
    train.send(signal.SIGKILL)
    assert train.end() == -signal.SIGKILL

    get = dashboard(train.log_dir)
    experiments = json.loads(get("/project"))["data"]["experiments"]
    assert len(experiments) == 1
    experiment = experiments[0]["id"]
    charts = json.loads(get(f"/experiment/{experiment}/chart"))["data"]["charts"]
    assert "train/composites" in [chart["name"] for chart in charts]
    tag = json.loads(get(f"/experiment/{experiment}/tag/train%2Fcomposites"))["data"]
    assert len(tag["list"]) == 4
    for picture in tag["list"]:
        file = picture["data"][0]
        shown = get(f"/media/{file}?tag=train%2Fcomposites&experiment_id={experiment}")
        assert shown in [path.read_bytes() for path in readable_pictures(train.log_dir)]
