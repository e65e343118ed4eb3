"""What a run prints: which messages pass, what they look like, and how progress is told."""

import io
import logging
import re
import sys
import warnings

import pytest
from fakes import SketchModule, visualizations
from rich.console import Console
from scenes import clips
from trainings import make_trainer

import core.progress
from core.console import (
    AboutTheRun,
    ConsoleFormatter,
    ConsoleHandler,
    quiet_other_ranks,
    table,
    to_file,
    warnings_as_lines,
)
from core.progress import Progress


def record(message, name="core.run", level=logging.INFO):
    return logging.LogRecord(name, level, __file__, 1, message, (), None)


@pytest.mark.parametrize(
    ("name", "level", "message", "passes"),
    [
        ("core.run", logging.INFO, "run  outputs/1", True),
        ("lightning.pytorch.utilities.rank_zero", logging.INFO, "TPU available: False", False),
        ("lightning.pytorch.utilities.rank_zero", logging.INFO, "Restored all states from a", True),
        ("root", logging.INFO, "Training with points (sampled from masks) as inputs", False),
        ("matplotlib.font_manager", logging.INFO, "generated new fontManager", False),
        (
            "matplotlib.font_manager",
            logging.WARNING,
            "Matplotlib is building the font cache; wait",
            False,
        ),
        ("PIL.Image", logging.WARNING, "the image is broken", True),
        ("py.warnings", logging.ERROR, "anything", True),
    ],
)
def test_what_is_about_the_run_passes(name, level, message, passes):
    assert AboutTheRun().filter(record(message, name, level)) is passes


def test_a_warning_stands_out_in_colour_at_a_terminal_alone(monkeypatch):
    formatter, warning = ConsoleFormatter(), record("look", level=logging.WARNING)
    assert formatter.format(record("look")) == "look"
    assert formatter.format(warning) == "warning: look"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert formatter.format(warning) == "\x1b[1;33mwarning\x1b[0m: look"
    assert formatter.format(record("look", level=logging.ERROR)).startswith("\x1b[1;31merror")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def console(capsys):
    """A function that returns what a console at the root logger was given."""
    root, handler = logging.getLogger(), ConsoleHandler()
    handler.setFormatter(ConsoleFormatter())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: capsys.readouterr().out
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_for_the_file_is_not_on_the_console(console, caplog):
    to_file("details")
    logging.info("more")
    assert console() == "more\n"
    assert caplog.messages == ["details", "more"]


def test_other_ranks_show_errors_alone(console):
    quiet_other_ranks(1)
    logging.warning("of rank one")
    logging.error("it broke")
    assert console() == "error: it broke\n"


def test_warnings_come_as_one_line_unless_they_are_for_developers(console):
    def warn():
        warnings.warn("look\n  here", UserWarning, stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
        warnings.warn(
            "The number of training batches (2) is smaller than the logging interval", stacklevel=1
        )
        # As Lightning says it, in trainings of several processes.
        for name in ("iou", "iou@mask", "iou@3clicks", "source/a/iou", "failures/lost"):
            warnings.warn(
                f"It is recommended to use `self.log('val/{name}', ..., sync_dist=True)` when "
                "logging on epoch level in distributed setting",
                stacklevel=1,
            )

    with warnings_as_lines():
        warn()
    assert console() == "warning: look here\n"


def test_a_table_is_two_columns():
    assert table([("data", "a"), ("writes to", "b")]) == "data        a\nwrites to   b"


class Measured(SketchModule):
    def __init__(self):
        super().__init__(visualizations(enabled=False))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0 + 2.5

    def on_validation_epoch_end(self):
        self.log("val/iou", 0.25)


def fit(tmp_path, **options):
    trainer = make_trainer(
        tmp_path,
        False,
        [Progress()],
        enable_progress_bar=True,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        **options,
    )
    trainer.validate(Measured(), clips(2), verbose=False)
    trainer.fit(Measured(), clips(16), clips(2))


def test_without_a_terminal_progress_is_a_line_now_and_then(tmp_path, console, monkeypatch):
    monkeypatch.setattr(core.progress, "duration", lambda seconds: "9:59")
    fit(tmp_path, max_steps=30, val_check_interval=10)
    lines = [line for line in console().splitlines() if "val/iou" in line]
    assert lines[0] == "before training  val/iou 0.250"
    every_third = [f"step {step}/30  loss 2.500  val/iou 0.250" for step in range(3, 31, 3)]
    told = [line.removesuffix("  9:59 left") for line in lines[1:]]
    assert set(every_third) - {"step 30/30  loss 2.500  val/iou 0.250"} <= set(told)
    assert [told.count(line) for line in told] == [1] * len(told)
    assert "step 10/30  loss 2.500  val/iou 0.250" in told
    assert lines[-1] == "step 30/30  loss 2.500  val/iou 0.250"
    assert lines[-2].endswith("9:59 left")


def test_at_a_terminal_of_80_columns_the_bar_fits_in_a_line(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(
        core.progress, "Console", lambda: Console(file=terminal, width=80, force_terminal=True)
    )
    monkeypatch.setattr(core.progress, "duration", lambda seconds: "23:59:59")
    fit(tmp_path, max_steps=10, val_check_interval=5)
    bars = [line for line in re.split(r"[\r\n]", plain(terminal.getvalue())) if "━" in line]
    assert max(len(line) for line in bars) <= 80
    assert bars[-1].startswith("step 10/10 ━")
    assert bars[-1].endswith("━ loss 2.500  val/iou 0.250")


def plain(text):
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36000, "10:00:00")]
)
def test_durations_are_told_in_minutes_or_hours(seconds, said):
    assert core.progress.duration(seconds) == said
