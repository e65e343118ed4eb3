"""``visualizations.strict``: whatever would have been a warning is raised."""

import time
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from fakes import RememberingLogger, SketchModule, SomeonesModule, visualizations
from lightning.pytorch.loggers import CSVLogger
from scenes import clips, widening_squares
from trainings import assert_same_training, fit, make_trainer, our_warnings, wait_until

from core.visualization import (
    VisualizationsConfig,
    VisualizationsError,
    limits,
    visualizer,
    visualizer_of,
)
from core.visualization.worker import BackgroundWorker


@pytest.fixture(autouse=True)
def time_to_spare(monkeypatch):
    """Nothing is left out because the machine is busy."""
    monkeypatch.setattr(limits, "GRACE_S", 600.0)


def strict(**fields):
    return visualizations(strict=True, **fields)


class Progress(pl.Callback):
    """Counts the batches that ended, and lets each picture be drawn before the next one begins."""

    num_ended = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.num_ended += 1
        worker = visualizer_of(pl_module).worker
        wait_until(lambda: not (worker._tasks or worker._is_running()))


def run(tmp_path, section, logger, num_batches=4, callbacks=()):
    progress = Progress()
    trainer = make_trainer(tmp_path, logger, [progress, *callbacks])
    module = SomeonesModule(section)
    return progress, lambda: trainer.fit(module, widening_squares(num_batches))


def refusing(*steps):
    def fault(key, step):
        if step in steps:
            raise ConnectionError("no route")

    return RememberingLogger(fault)


def test_a_snapshot_that_fails_is_raised_where_it_happens(tmp_path, monkeypatch):
    take = visualizer.take_snapshot

    def fail(batch, outs, moment, *args, **kwargs):
        if moment.step == 2:
            raise ValueError("injected")
        return take(batch, outs, moment, *args, **kwargs)

    monkeypatch.setattr(visualizer, "take_snapshot", fail)
    progress, train = run(tmp_path, strict(), RememberingLogger())
    said = r"taking a snapshot failed: ValueError: injected \(visualizations.strict=true\)"
    with pytest.raises(VisualizationsError, match=said) as raised:
        train()
    assert isinstance(raised.value.__cause__, ValueError)
    assert progress.num_ended == 2


@pytest.mark.parametrize("every", [1, 2])  # 2: the next call of the hook has nothing to draw
def test_what_fails_on_the_drawing_thread_is_raised_by_the_next_call(tmp_path, every):
    progress, train = run(tmp_path, strict(every_n_steps=every), refusing(2))
    with pytest.raises(VisualizationsError, match="drawing or logging failed: ConnectionError: no"):
        train()
    assert progress.num_ended == 3


def test_what_fails_last_is_raised_at_the_end_of_fit(tmp_path):
    progress, train = run(tmp_path, strict(), refusing(3))
    with pytest.raises(VisualizationsError, match="no route"):
        train()
    assert progress.num_ended == 4


def test_what_fails_after_the_last_call_of_validate_is_raised_at_its_end(tmp_path):
    trainer = make_trainer(tmp_path, refusing(0))
    with pytest.raises(VisualizationsError, match="no route"):
        trainer.validate(SomeonesModule(strict()), widening_squares(1), verbose=False)


def test_a_failure_that_was_raised_does_not_come_again(tmp_path):
    module = SomeonesModule(strict())
    with pytest.raises(VisualizationsError, match="no route"):
        make_trainer(tmp_path, refusing(0)).fit(module, widening_squares(1))
    logger = RememberingLogger()
    make_trainer(tmp_path, logger).fit(module, widening_squares(2))
    assert logger.steps() == [0, 1]


def test_another_exception_of_the_run_is_not_hidden(tmp_path, caplog):
    class Break(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            raise ZeroDivisionError("of the training")

    _, train = run(tmp_path, strict(), refusing(0), callbacks=[Break()])
    with pytest.raises(ZeroDivisionError, match="of the training"):
        train()
    (warning,) = our_warnings(caplog)
    assert "drawing or logging failed: ConnectionError: no route" in warning.getMessage()


def test_pictures_that_work_are_as_without_it(tmp_path, untouched, caplog):
    logger = RememberingLogger()
    assert_same_training(fit(tmp_path, strict(worst_clips=1), logger), untouched)
    assert logger.steps() == [0, 1, 2, 3, 4, 5]
    assert our_warnings(caplog) == []


def without_identifiers(batch, outs, step):
    given = {name: getattr(batch, name) for name in ("img_batch", "masks", "obj_to_frame_idx")}
    return SimpleNamespace(**given, metadata=None), outs


def over_budget(monkeypatch):
    monkeypatch.setattr(limits.Budget, "allows", lambda self, part=1.0: False)


def no_thread_at_the_end(monkeypatch):
    submit = BackgroundWorker.submit

    def refuse(self, task, **how):
        if how.get("even_if_full"):
            raise RuntimeError("can't start new thread")
        return submit(self, task, **how)

    monkeypatch.setattr(BackgroundWorker, "submit", refuse)


def queue_is_full(monkeypatch):
    monkeypatch.setattr(BackgroundWorker, "has_room", lambda self: False)


WARNINGS = {
    "no logger accepts images": {
        "logger": lambda path: CSVLogger(path),
        "fields": {"run_book": False},
    },
    "no logger accepts GIFs": {"fields": {"animation": True}},
    "RememberingLogger did not accept the pictures; other loggers did": {
        "logger": lambda path: [refusing(0), RememberingLogger()]
    },
    "more than visualizations.max_overhead": {"change": over_budget},
    "the drawing queue is full": {"change": queue_is_full},
    "has no metadata.unique_objects_identifier": {"spoil": without_identifiers},
    "drawing the worst clips failed: RuntimeError: can't start new thread": {
        "change": no_thread_at_the_end,
        "fields": {"worst_clips": 1},
    },
    "not logged within visualizations.flush_timeout_s=0.2": {
        "logger": lambda path: RememberingLogger(lambda key, step: time.sleep(2)),
        "fields": {"flush_timeout_s": 0.2},
    },
}


@pytest.mark.parametrize("said", WARNINGS)
def test_every_warning_is_raised(said, tmp_path, monkeypatch, caplog):
    case = WARNINGS[said]
    if "change" in case:
        case["change"](monkeypatch)
    logger = case.get("logger", lambda path: RememberingLogger())(tmp_path)
    section = strict(**{"max_pending": 100, **case.get("fields", {})})
    trainer = make_trainer(tmp_path, logger)
    module = SketchModule(section, case.get("spoil"))
    with pytest.raises(VisualizationsError, match=said.replace(".", r"\.")):
        trainer.fit(module, clips(2), clips(1))


def test_settings_that_make_no_sense_are_raised(tmp_path):
    section = {"enabled": True, "strict": True, "every_n_step": 3}
    with pytest.raises(VisualizationsError, match="unknown setting visualizations"):
        make_trainer(tmp_path).fit(SomeonesModule(section), widening_squares(1))


def test_a_stage_that_is_no_name_is_raised(tmp_path):
    class Wrong(SomeonesModule):
        def training_step(self, batch, batch_idx):
            self._step(batch, batch_idx, 1)

    with pytest.raises(VisualizationsError, match="stage must be a text such as 'train', got 1"):
        make_trainer(tmp_path, RememberingLogger()).fit(Wrong(strict()), widening_squares(1))


def test_strict_is_off_by_default():
    assert VisualizationsConfig().strict is False
