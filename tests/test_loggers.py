"""Composites reach every dashboard through the mixin in a real fit, as they reach SwanLab."""

import io
import sys
import threading
import time

import numpy as np
import pytest
from fakes import ROOM, SomeonesModule
from PIL import Image
from processes import png_files
from trainings import make_trainer

from core.config import Config, DataConfig, ModelConfig, SwanLabConfig, VisualizationsConfig
from core.data import VideoDataModule
from core.loggers import GuardedCSV, build_loggers, finish_swanlab, finish_wandb
from core.visualization.publisher import draw_sheets

KEYS = ("train/composites", "val/composites")


def fit(names, folder, monkeypatch) -> list:
    """Train for three steps with these loggers and return the sheets as they were handed over."""
    config = Config(
        model=ModelConfig(image_size=64),
        data=DataConfig(num_frames=2, batch_size=1, val_batch_size=1),
        swanlab=SwanLabConfig(log_dir=str(folder / "swanlog")),
        visualizations=VisualizationsConfig(**ROOM, every_n_steps=2, panel_size=64),
        logger=names,
    )
    config.data.synthetic.num_val_clips = 1
    sheets = []

    def remember(*args, **kwargs):
        drawn = draw_sheets(*args, **kwargs)
        sheets.extend(drawn[0])
        return drawn

    monkeypatch.setattr("core.visualization.publisher.draw_sheets", remember)
    data = VideoDataModule(config.data, 64, seed=0)
    trainer = make_trainer(
        folder,
        build_loggers(config, folder),
        max_steps=3,
        limit_val_batches=1,
        use_distributed_sampler=False,
        val_check_interval=3,
        num_sanity_val_steps=1,
    )
    trainer.fit(SomeonesModule(config.visualizations), data)
    finish_swanlab(30)
    if "wandb" in names:
        finish_wandb(30)
    return sheets


def swanlab_sheets(folder) -> list[np.ndarray]:
    return [read(path) for path in png_files(folder / "swanlog")]


def tensorboard_sheets(folder) -> list[np.ndarray]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == set(KEYS)
    assert [image.step for image in events.Images("train/composites")] == [0, 2]
    return [
        np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"))
        for key in KEYS
        for image in events.Images(key)
    ]


def wandb_sheets(folder) -> list[np.ndarray]:
    paths = sorted(folder.glob("wandb/offline-run-*/files/media/images/*/*.png"))
    assert {path.parent.name for path in paths} == {"train", "val"}
    return [read(path) for path in paths]


READERS = {"swanlab": swanlab_sheets, "tensorboard": tensorboard_sheets, "wandb": wandb_sheets}


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def fingerprints(images) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No account is asked for and nothing leaves the machine."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))


@pytest.mark.parametrize("name", ["swanlab", "tensorboard", "wandb"])
def test_composites_reach_the_dashboard_as_they_were_drawn(name, tmp_path, monkeypatch, offline):
    sheets = fit([name], tmp_path, monkeypatch)
    assert len(sheets) == 3  # steps 0 and 2 of training, one validation
    assert fingerprints(READERS[name](tmp_path)) == fingerprints(sheets)


def test_csv_trains_on_with_the_run_book_alone(tmp_path, monkeypatch, caplog):
    fit(["csv"], tmp_path, monkeypatch)
    assert "no logger accepts images" not in caplog.text
    assert len(list(tmp_path.rglob("run.html"))) == 1
    assert not list(tmp_path.rglob("*.png"))


def test_all_loggers_at_once_get_the_same_sheets(tmp_path, monkeypatch, offline):
    sheets = fit(["swanlab", "wandb", "tensorboard", "csv"], tmp_path, monkeypatch)
    for reader in READERS.values():
        assert fingerprints(reader(tmp_path)) == fingerprints(sheets)
    assert (tmp_path / "csv" / "metrics.csv").exists()


def test_a_missing_wandb_costs_no_training(tmp_path, monkeypatch, caplog):
    def missing(**kwargs):
        raise ModuleNotFoundError("wandb is not installed")

    monkeypatch.setattr("core.loggers.GuardedWandb", missing)
    monkeypatch.setitem(sys.modules, "wandb", None)
    loggers = build_loggers(Config(logger=["wandb", "csv"]), tmp_path)
    assert [type(logger) for logger in loggers] == [GuardedCSV]
    assert "logger=wandb cannot start (ModuleNotFoundError" in caplog.text
    finish_wandb(1)


@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_wandb_that_cannot_start_is_replaced_before_training(fault, tmp_path, monkeypatch, caplog):
    end = threading.Event()

    class NoRun:
        def __init__(self, **kwargs):
            pass

        @property
        def experiment(self):
            if fault == "raises":
                raise RuntimeError("no API key")
            end.wait(30)

    monkeypatch.setattr("core.loggers.GuardedWandb", NoRun)
    config = Config(logger="wandb", swanlab=SwanLabConfig(start_timeout_s=0.2))
    started = time.monotonic()
    loggers = build_loggers(config, tmp_path)
    assert time.monotonic() - started < 10
    end.set()
    assert [type(logger) for logger in loggers] == [GuardedCSV]
    reason = "RuntimeError: no API key" if fault == "raises" else "swanlab.start_timeout_s=0.2"
    assert caplog.text.count("logger=wandb cannot start") == caplog.text.count(reason) == 1


@pytest.fixture
def fresh_wandb():
    """W&B remembers the mode of the runs before."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_without_an_api_key_is_replaced_by_csv(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    loggers = build_loggers(Config(logger="wandb"), tmp_path)
    assert [type(logger) for logger in loggers] == [GuardedCSV]
    assert "logger=wandb cannot start" in caplog.text


def test_wandb_that_hangs_at_the_end_is_left_behind(monkeypatch, caplog):
    end = threading.Event()

    class Hanging:
        run = object()

        @staticmethod
        def finish():
            end.wait(30)

    monkeypatch.setitem(sys.modules, "wandb", Hanging)
    finish_wandb(0.2)
    stuck = not finish_swanlab(0.2)
    end.set()
    assert stuck
    assert "W&B did not close its run within swanlab.finish_timeout_s=0.2" in caplog.text


def test_another_start_in_the_same_directory_keeps_the_csv_of_the_first(tmp_path):
    for step in (1, 2):
        (logger,) = build_loggers(Config(logger="csv"), tmp_path)
        logger.log_metrics({"a": step}, step)
        logger.save()
    texts = [path.read_text() for path in sorted((tmp_path / "csv").rglob("metrics.csv"))]
    assert texts == ["a,step\n2,2\n", "a,step\n1,1\n"]


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "csv"])
def test_scalars_that_a_logger_no_longer_takes_cost_no_training(
    name, tmp_path, monkeypatch, caplog, offline
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    (logger,) = build_loggers(Config(logger=name), tmp_path)
    trainer = make_trainer(tmp_path, [logger], max_steps=3, log_every_n_steps=1)
    where = {
        "wandb": "wandb.sdk.wandb_run.Run.log",
        "tensorboard": "torch.utils.tensorboard.SummaryWriter.add_scalar",
        "csv": "lightning.fabric.loggers.csv_logs._ExperimentWriter.save",
    }
    monkeypatch.setattr(where[name], full)
    config = DataConfig(num_frames=2, batch_size=1, val_batch_size=1)
    module = SomeonesModule(VisualizationsConfig())
    trainer.fit(module, VideoDataModule(config, 64, seed=0))
    assert trainer.global_step == 3
    assert caplog.text.count("no longer accepts metrics; training continues") == 1
    assert caplog.text.count("No space left on device") >= 1
    if name == "wandb":
        finish_wandb(30)
