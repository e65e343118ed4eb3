"""The pace of a training, measured with a clock that its parts move on."""

import functools

import pytest
import torch
from fakes import RememberingLogger, SketchModule, visualizations
from scenes import clips
from training.utils.data_utils import collate_fn
from trainings import make_trainer, our_warnings

from core.data.loader import ClipOrder, ResumableLoader
from core.memory import peak_memory
from core.meters import Meters, _what_helps

GIB = 2**30


class Clock:
    """Seconds that pass where somebody says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for module in ("core.meters", "core.data.loader"):
            monkeypatch.setattr(f"{module}.perf_counter", lambda: self.now)


class Clips:
    """Clips that take three seconds each to load."""

    def __init__(self, clock, num_clips, seconds=3.0):
        self.clock, self.seconds = clock, seconds
        self.videos = clips(num_clips).dataset

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, where):
        self.clock.now += self.seconds
        return self.videos[where[1]]


class OneSecondSteps(SketchModule):
    """A step takes a second and a validated batch a thousand."""

    def __init__(self, clock):
        super().__init__(visualizations(enabled=False))
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.now += 1000


def measure(tmp_path, clock, num_batches, *, seconds=3.0, **trainer):
    """Train on batches of two clips; return the meters, the rows of the logger and the trainer."""
    logger, meters = RememberingLogger(), Meters()
    loader = ResumableLoader(
        order=ClipOrder(2 * num_batches, 2, seed=0, shuffle=False),
        progress=lambda: None,
        dataset=Clips(clock, 2 * num_batches, seconds),
        collate_fn=functools.partial(collate_fn, dict_key="all"),
    )
    trainer = make_trainer(tmp_path, logger, [meters], **trainer)
    trainer.fit(OneSecondSteps(clock), loader, clips(2))
    rows = [(step, row) for step, row in logger.metrics if "train/step_s" in row]
    return meters, rows, trainer


def test_rows_are_means_over_the_steps_since_the_row_before(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    meters, rows, trainer = measure(tmp_path, clock, 6, log_every_n_steps=3, val_check_interval=2)
    # Lightning counts the steps of its rows from 0.
    assert [step for step, _ in rows] == [2, 5]
    for _, row in rows:
        # Two clips of three seconds each, and one second of training; no validation.
        assert row["train/step_s"] == pytest.approx(7)
        assert row["train/data_wait"] == pytest.approx(6 / 7)
        assert row["train/clips_per_s"] == pytest.approx(2 / 7)
        assert row["train/peak_memory_gib"] == pytest.approx(
            peak_memory(torch.device("cpu")), rel=0.5
        )
    assert rows[-1][1]["train/time_left_s"] == 0
    assert meters.whole.steps == 5  # without the first
    said = dict(meters.said_at_the_end(trainer))
    assert said["pace"] == "7 s per step, 0.286 clips per s, 86 % of the time waiting for clips"
    assert said["memory"].endswith("GiB resident at most")


def test_a_step_is_all_batches_of_its_window(tmp_path, monkeypatch):
    _, rows, _ = measure(
        tmp_path, Clock(monkeypatch), 6, accumulate_grad_batches=2, limit_val_batches=0
    )
    # Two batches of seven seconds; the first step is left out.
    assert [(step, row["train/step_s"]) for step, row in rows] == [(1, 14), (2, 14)]
    assert rows[0][1]["train/clips_per_s"] == pytest.approx(4 / 14)


@pytest.mark.parametrize(("seconds", "warns"), [(3.0, True), (0.01, False)])
def test_much_waiting_is_warned_of_once(tmp_path, monkeypatch, caplog, seconds, warns):
    monkeypatch.setattr("core.meters.STEPS_TO_JUDGE", 2)
    measure(tmp_path, Clock(monkeypatch), 6, seconds=seconds, limit_val_batches=0)
    said = [record.getMessage() for record in our_warnings(caplog)]
    assert len(said) == warns
    if warns:
        assert said[0].startswith("training spent 86 % of the last 2 steps waiting for clips: ")
        assert "data.num_workers" in said[0]


def test_what_helps_depends_on_the_cores():
    assert _what_helps(1, 4) == "raise data.num_workers=1 (this machine has 4 cores)"
    assert "store the frames" in _what_helps(4, 4)


def test_peak_memory_is_that_of_the_process():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(50_000_000)  # 0.19 GiB
    after = peak_memory(torch.device("cpu"))
    assert after >= before
    assert after >= held.nbytes / GIB
