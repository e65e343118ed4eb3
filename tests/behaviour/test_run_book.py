"""The run book of real fits: where it goes, what it holds, and what a fault costs."""

import errno
import logging
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from books import read_runs
from fakes import HookedModule, RememberingLogger, SketchModule, visualizations
from lightning.pytorch.loggers import CSVLogger
from scenes import clips, make_scene
from trainings import assert_same_training, fit, make_trainer, our_warnings

from core import files
from core.visualization import book, curves, limits

PAGE = "run.html"


def steps_of(run, kind):
    clips = [clip for clip in run["clips"] if clip["kind"] == kind]
    return sorted({event["step"] for clip in clips for event in clip["events"]})


def test_a_fit_without_a_logger_has_a_run_book_and_is_the_same_fit(untouched, tmp_path, caplog):
    section = visualizations(run_dir=str(tmp_path / "run"))
    training = fit(tmp_path, section)
    assert_same_training(training, untouched)
    assert our_warnings(caplog) == []
    (run,) = read_runs(tmp_path / "run")
    assert steps_of(run, "train") == [0, 1, 2, 3, 4, 5]
    assert steps_of(run, "pinned") == [3, 6]
    assert run["curves"]["val_loss"]["steps"] == [3, 6]
    assert run["finished"] is not None
    assert (tmp_path / "run" / PAGE).read_text().count("<html") == 1


def test_a_run_book_and_a_logger_get_the_same_events(untouched, tmp_path):
    logger = RememberingLogger()
    section = visualizations(run_dir=str(tmp_path / "run"))
    assert_same_training(fit(tmp_path, section, logger), untouched)
    (run,) = read_runs(tmp_path / "run")
    assert steps_of(run, "train") == logger.steps()
    assert steps_of(run, "pinned") == sorted(set(logger.steps("val")))


def test_it_lies_where_the_logger_writes(tmp_path):
    logger = CSVLogger(tmp_path, name="mine", version="")
    fit(tmp_path, visualizations(), logger)
    assert (tmp_path / "mine" / PAGE).is_file()
    (run,) = read_runs(tmp_path / "mine")
    assert "val_loss" in run["curves"]


@pytest.mark.parametrize("log_dir", [None, "."])
def test_without_a_folder_of_its_own_there_is_none_and_one_sentence_says_so(
    tmp_path, monkeypatch, caplog, log_dir
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RememberingLogger, "log_dir", log_dir)
    caplog.set_level(logging.INFO, "core")
    fit(tmp_path, visualizations(), RememberingLogger())
    said = [record.getMessage() for record in caplog.records if "run book" in record.getMessage()]
    assert len(said) == 1
    assert "visualizations.run_dir=DIR" in said[0]
    assert list(tmp_path.rglob("pictures")) == []


def test_it_can_be_turned_off(tmp_path):
    fit(tmp_path, visualizations(run_book=False, run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_its_folder_is_refused_in_one_sentence(untouched, tmp_path, caplog):
    section = visualizations(run_dir=str(tmp_path / "run"))
    fit(tmp_path, section)
    page = (tmp_path / "run" / PAGE).read_bytes()
    logger = RememberingLogger()
    assert_same_training(fit(tmp_path, section, logger), untouched)
    (warning,) = our_warnings(caplog)
    assert "pictures of run holds another run's pictures" in warning.getMessage()
    assert logger.steps() == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "run" / PAGE).read_bytes() == page


# Further frames of pinned clips


def validate(tmp_path, step=0, **options):
    """One event of validation with twelve frames, of which a sheet shows two."""
    options = {"max_frames": 2, "panel_size": 64, "max_overhead": 1.0, **options}
    module = HookedModule(RememberingLogger(), run_dir=str(tmp_path / "run"), **options)
    scene = make_scene(12, 64, 2)
    module.event(step, scene, "val")
    module.visualizer.flush()
    return module


@pytest.mark.parametrize(("kept", "expected"), [(32, 12), (5, 5), (1, 2)])
def test_pinned_clips_are_kept_with_more_frames_than_their_sheet_shows(tmp_path, kept, expected):
    module = validate(tmp_path, run_book_frames=kept)
    (clip,) = read_runs(tmp_path / "run")[0]["clips"]
    assert clip["frame_numbers"] == list(range(expected))
    ((sheet,),) = module.trainer.loggers[0].images.values()
    assert sheet.shape[0] < 500  # two rows


def test_other_clips_of_the_event_are_kept_as_their_sheet_shows_them(tmp_path):
    validate(tmp_path, pinned_clips=0)
    (clip,) = read_runs(tmp_path / "run")[0]["clips"]
    assert (clip["kind"], clip["frame_numbers"]) == ("val", [0, 1])


def test_over_budget_only_the_frames_of_the_sheet_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(limits.Budget, "allows", lambda self, part=1.0: part == 1.0)
    validate(tmp_path)
    (clip,) = read_runs(tmp_path / "run")[0]["clips"]
    assert clip["frame_numbers"] == [0, 1]


# Faults


def fit_with_fault(tmp_path, untouched, caplog, logger=None):
    """Fit, compare with the fit without pictures and return the run book's warnings."""
    logger = RememberingLogger() if logger is None else logger
    training = fit(tmp_path, visualizations(run_dir=str(tmp_path / "run")), logger)
    assert_same_training(training, untouched)
    assert logger.steps() == [0, 1, 2, 3, 4, 5]
    return [record.getMessage() for record in our_warnings(caplog)]


def test_a_full_disk_costs_the_events_in_work(untouched, tmp_path, caplog, monkeypatch):
    write = files.replace_whole

    def refuse(path, content):
        if "00000001" in path.name or "00000002" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(files, "replace_whole", refuse)
    warnings = fit_with_fault(tmp_path, untouched, caplog)
    assert len(warnings) == 1
    assert "the run book could not be written; training continues" in warnings[0]
    assert "No space left" in caplog.text
    (run,) = read_runs(tmp_path / "run")
    assert steps_of(run, "train") == [0, 3, 4, 5]
    assert (tmp_path / "run" / PAGE).is_file()


def test_a_folder_that_is_removed_is_begun_anew(untouched, tmp_path, caplog):
    def remove(key, step):
        if key.startswith("train") and step == 2:
            for path in (tmp_path / "run" / "pictures").iterdir():
                path.unlink()
            (tmp_path / "run" / "pictures").rmdir()

    assert fit_with_fault(tmp_path, untouched, caplog, RememberingLogger(remove)) == []
    (run,) = read_runs(tmp_path / "run")
    assert steps_of(run, "train") == [3, 4, 5]
    assert steps_of(run, "pinned") == [3, 6]


def test_a_folder_that_cannot_be_made_is_said_once(untouched, tmp_path, caplog):
    (tmp_path / "run").write_text("a file")
    warnings = fit_with_fault(tmp_path, untouched, caplog)
    assert len(warnings) == 1
    assert "the run book could not be written" in warnings[0]
    assert (tmp_path / "run").read_text() == "a file"


def test_a_page_that_cannot_be_written_costs_the_page_alone(untouched, tmp_path, caplog):
    (tmp_path / "run" / PAGE).mkdir(parents=True)
    warnings = fit_with_fault(tmp_path, untouched, caplog)
    assert len(warnings) == 1
    (run,) = read_runs(tmp_path / "run")
    assert steps_of(run, "train") == [0, 1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.glob("run/*.part")] == []


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x")], ids=type)
def test_whatever_fails_while_an_event_is_stored_costs_that_event(
    error, untouched, tmp_path, caplog, monkeypatch
):
    record = book.event_record

    def fail(clip, gt):
        if clip.moment.step == 1:
            raise error
        return record(clip, gt)

    monkeypatch.setattr(book, "event_record", fail)
    warnings = fit_with_fault(tmp_path, untouched, caplog)
    assert len(warnings) == 1
    assert steps_of(read_runs(tmp_path / "run")[0], "train") == [0, 2, 3, 4, 5]


def test_a_run_that_hangs_in_the_disk_is_given_up_at_the_end(tmp_path, caplog, monkeypatch):
    release, hanging = threading.Event(), []

    def hang(path, content):
        hanging.append(threading.current_thread())
        release.wait(60)

    monkeypatch.setattr(files, "replace_whole", hang)
    validate(tmp_path, flush_timeout_s=0.2)
    assert "not logged within" in caplog.text
    # What the thread says when it goes on is not to be heard in another test.
    release.set()
    hanging[0].join(60)
    assert not hanging[0].is_alive()


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from books import make_book, scene_clip

book = make_book(Path(sys.argv[1]))
clip = scene_clip()
step = 0
while True:
    clip.moment = type(clip.moment)("val", step)
    book.add(clip, "pinned")
    book.add_curves([{"step": step, "values": {"loss": step}}])
    print(step, flush=True)
    step += 1
"""


def test_what_was_stored_before_a_process_is_killed_can_be_read(tmp_path):
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)]
    path = {"PYTHONPATH": ":".join(item for item in sys.path if item)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**path})
    while int(process.stdout.readline()) < 20:
        pass
    process.send_signal(signal.SIGKILL)
    told = [int(line) for line in process.stdout.read().split()]
    process.wait()
    (run,) = read_runs(tmp_path)
    steps = steps_of(run, "pinned")
    assert steps == list(range(len(steps)))
    assert len(steps) >= 21 + len(told)
    assert run["notes"] == []
    assert run["finished"] is None


class WandbLogger(RememberingLogger):
    """Named as W&B's, with an experiment that remembers what it gets."""

    def __init__(self):
        super().__init__()
        self.logged = []

    @property
    def experiment(self):
        return SimpleNamespace(log=self.logged.append)


def test_the_page_is_logged_once_to_a_logger_that_shows_pages(untouched, tmp_path):
    wandb_logger, other = WandbLogger(), RememberingLogger()
    section = visualizations(run_dir=str(tmp_path / "run"))
    assert_same_training(fit(tmp_path, section, [wandb_logger, other]), untouched)
    (logged,) = wandb_logger.logged
    assert list(logged) == ["run_book"]
    assert type(logged["run_book"]).__name__ == "Html"


# The host's own logging


def test_a_trainer_that_logs_no_steps_has_its_pictures_and_its_validations(tmp_path, caplog):
    logger = RememberingLogger()
    section = visualizations(run_dir=str(tmp_path / "run"))
    fit(tmp_path, section, logger, steps=9, log_every_n_steps=0)
    assert our_warnings(caplog) == []
    assert logger.steps() == list(range(9))
    (run,) = read_runs(tmp_path / "run")
    assert run["curves"]["val_loss"]["steps"] == [3, 6, 9]


def test_curves_that_cannot_be_read_cost_the_curves_alone(tmp_path, caplog, monkeypatch):
    def fail(reader, trainer, after_validation):
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(curves.CurveReader, "read", fail)
    logger = RememberingLogger()
    fit(tmp_path, visualizations(run_dir=str(tmp_path / "run")), logger, steps=9)
    assert logger.steps() == list(range(9))
    (warning,) = our_warnings(caplog)
    assert "the curves of the run book could not be read" in warning.getMessage()


class LoggingModule(SketchModule):
    """A host that logs its loss at every step, as most do; `stages` are those that it draws."""

    def __init__(self, section, stages=("train", "val")):
        super().__init__(section)
        self.stages = stages

    def maybe_log_visualizations(self, batch, outs, batch_idx, stage):
        if stage in self.stages:
            super().maybe_log_visualizations(batch, outs, batch_idx, stage)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss, batch_size=1)
        return loss


def fit_logging(tmp_path, *, stages=("train", "val"), ckpt_path=None, **options):
    """Fit with a validation after every four steps, and a checkpoint in the end."""
    section = visualizations(run_dir=str(tmp_path / "run"), every_n_steps=200)
    trainer = make_trainer(tmp_path, RememberingLogger(), **options)
    module = LoggingModule(section, stages)
    trainer.fit(module, clips(8), clips(2, batch_size=1), ckpt_path=ckpt_path, weights_only=False)
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    (run,) = read_runs(tmp_path / "run")
    return run["curves"]


@pytest.mark.parametrize("stages", [("train", "val"), ("val",)], ids=str)
def test_curves_of_training_and_validation_are_told_apart_where_epochs_are_short(tmp_path, stages):
    # A validation comes before the first step that is logged.
    found = fit_logging(tmp_path, stages=stages, max_epochs=3, log_every_n_steps=6)
    assert found["train/loss"]["steps"] == [6, 12]
    assert found["val_loss"]["steps"] == [4, 8, 12]


def test_a_resumed_run_has_its_training_curve_between_pictures(tmp_path):
    fit_logging(tmp_path, max_epochs=1)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    found = fit_logging(tmp_path, ckpt_path=checkpoint, max_epochs=3)
    assert found["train/loss"]["steps"] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert found["val_loss"]["steps"] == [4, 8, 12]


# Several runs in one folder


class MeasuringModule(LoggingModule):
    """One that logs a validation's value which depends on the weights."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/weight", self.conv.weight.detach().sum(), batch_size=1)


def measuring(tmp_path):
    pl.seed_everything(0, verbose=False)
    return MeasuringModule(visualizations(run_dir=str(tmp_path / "run")))


def fit_and_read(tmp_path, module, **options):
    trainer = make_trainer(tmp_path, RememberingLogger(), val_check_interval=3, **options)
    trainer.fit(module, clips(12), clips(2, batch_size=1))
    (run,) = read_runs(tmp_path / "run")
    return trainer, run


@pytest.mark.parametrize("with_the_same_trainer", [True, False])
def test_validating_after_a_fit_leaves_the_curves_and_clips_of_training_as_they_are(
    tmp_path, with_the_same_trainer
):
    module = measuring(tmp_path)
    trainer = make_trainer(tmp_path, RememberingLogger(), val_check_interval=3)
    trainer.validate(module, clips(2, batch_size=1), verbose=False)
    trainer.fit(module, clips(12), clips(2, batch_size=1))
    (before,) = read_runs(tmp_path / "run")
    assert before["curves"]["val/weight"]["steps"] == [0, 3, 6]
    assert before["baseline_step"] == 0
    with torch.no_grad():
        module.conv.weight += 1  # as other weights are loaded, for instance the best ones
    if not with_the_same_trainer:
        trainer = make_trainer(tmp_path, RememberingLogger())
    trainer.validate(module, clips(2, batch_size=1), verbose=False)
    (after,) = read_runs(tmp_path / "run")
    assert after["curves"]["val/weight"] == before["curves"]["val/weight"]
    assert after["clips"] == before["clips"]
    assert trainer.loggers[0].steps("val")[-1] == trainer.global_step  # it is drawn all the same


def test_a_second_fit_in_the_same_folder_is_a_new_start_that_replaces_the_first(tmp_path):
    module = measuring(tmp_path)
    _, first = fit_and_read(tmp_path, module)
    _, second = fit_and_read(tmp_path, module, max_steps=4)
    assert len(list((tmp_path / "run" / "pictures").glob("start-*.json"))) == 2
    assert first["curves"]["val/weight"]["steps"] == [3, 6]
    assert second["curves"]["val/weight"]["steps"] == [3]
    assert second["curves"]["train/loss"]["steps"] == [1, 2, 3, 4]
    assert steps_of(second, "train") == [0, 1, 2, 3]


def test_a_trainer_that_fits_further_goes_on_with_its_book(tmp_path):
    module = measuring(tmp_path)
    trainer, first = fit_and_read(tmp_path, module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, clips(12), clips(2, batch_size=1))
    (run,) = read_runs(tmp_path / "run")
    found, expected = run["curves"]["val/weight"], first["curves"]["val/weight"]
    assert found["steps"] == [3, 6, 9, 12]
    assert found["values"][:2] == expected["values"]
    assert steps_of(run, "train") == list(range(12))
