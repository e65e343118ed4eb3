"""Every fault of drawing and logging, injected into a real fit: it trains on as if nothing were."""

import threading
import time
import weakref

import lightning.pytorch as pl
import pytest
import torch
from fakes import HookedModule, RememberingLogger, SketchModule, WaitingLogger, visualizations
from lightning.pytorch.loggers import CSVLogger
from scenes import clips, make_scene
from trainings import assert_same_training, fit, make_trainer, our_warnings, wait_until

from core.metrics.outcomes import AtDistance, Findings
from core.visualization import limits, publisher, visualizer, visualizer_of
from core.visualization.mixin import maybe_log_prompts
from core.visualization.worker import BackgroundWorker

FAULTY = (1, 2)  # the steps that go wrong
FINE = [0, 3, 4, 5]


def check_training_steps(untouched, tmp_path, caplog, section=None, logger=None, **options):
    """Fit with a fault, compare with the fit without pictures and return the warnings."""
    logger = RememberingLogger() if logger is None else logger
    training = fit(tmp_path, section or visualizations(), logger, **options)
    assert_same_training(training, untouched)
    return [record.getMessage() for record in our_warnings(caplog)]


def on_faulty_steps(error):
    def fault(key, step):
        if key.startswith("train") and step in FAULTY:
            raise error

    return fault


# What fails


def test_logger_that_raises_is_said_once_and_used_again(untouched, tmp_path, caplog):
    logger = RememberingLogger(on_faulty_steps(ConnectionError("no route")))
    warnings = check_training_steps(untouched, tmp_path, caplog, logger=logger)
    assert logger.steps() == FINE
    assert len(warnings) == 1
    assert "drawing or logging failed; training continues" in warnings[0]
    assert "no route" in caplog.text


@pytest.mark.parametrize(
    "error", [RuntimeError("injected"), MemoryError(), SystemExit(3), KeyboardInterrupt()], ids=type
)
def test_renderer_that_raises_is_said_once_and_used_again(
    error, untouched, tmp_path, caplog, monkeypatch
):
    draw = publisher.draw_sheets

    def fail(clips, panel_size):
        if clips[0].moment.stage == "train" and clips[0].moment.step in FAULTY:
            raise error
        return draw(clips, panel_size)

    monkeypatch.setattr(publisher, "draw_sheets", fail)
    logger = RememberingLogger()
    warnings = check_training_steps(untouched, tmp_path, caplog, logger=logger)
    assert logger.steps() == FINE
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), ValueError("x")],
    ids=type,
)
def test_snapshot_that_fails_is_said_once_and_taken_again(
    error, untouched, tmp_path, caplog, monkeypatch
):
    take = visualizer.take_snapshot

    def fail(batch, outs, moment, *args, **kwargs):
        if moment.stage == "train" and moment.step in FAULTY:
            raise error
        return take(batch, outs, moment, *args, **kwargs)

    monkeypatch.setattr(visualizer, "take_snapshot", fail)
    logger = RememberingLogger()
    warnings = check_training_steps(untouched, tmp_path, caplog, logger=logger)
    assert logger.steps() == FINE
    assert len(warnings) == 1
    assert "taking a snapshot failed" in warnings[0]


def test_system_without_room_for_a_thread_costs_the_pictures_alone(
    untouched, tmp_path, caplog, monkeypatch
):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "visualizations":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    section = visualizations(worst_clips=1)
    warnings = check_training_steps(untouched, tmp_path, caplog, section)
    assert "can't start new thread" in caplog.text
    assert "5 failures in a row; no more pictures are taken in this run" in warnings[-1]


def test_worst_clips_without_a_thread_cost_the_pictures_alone(
    untouched, tmp_path, caplog, monkeypatch
):
    submit = BackgroundWorker.submit

    def refuse(self, run, **how):
        if how.get("even_if_full"):
            raise RuntimeError("can't start new thread")
        return submit(self, run, **how)

    monkeypatch.setattr(BackgroundWorker, "submit", refuse)
    logger = RememberingLogger()
    section = visualizations(worst_clips=1)
    warnings = check_training_steps(untouched, tmp_path, caplog, section, logger)
    assert logger.steps() == [0, 1, 2, 3, 4, 5]
    assert len(warnings) == 1
    assert "drawing the worst clips failed; training continues" in warnings[0]


def test_flush_that_fails_costs_nothing(untouched, tmp_path, caplog, monkeypatch):
    def fail(self, timeout_s):
        raise RuntimeError("injected")

    monkeypatch.setattr(BackgroundWorker, "drain", fail)
    warnings = check_training_steps(untouched, tmp_path, caplog)
    assert len(warnings) == 1
    assert "waiting for the pictures failed; training continues" in warnings[0]


def test_flush_that_fails_does_not_hide_why_training_failed(tmp_path, monkeypatch):
    class Break(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            raise ZeroDivisionError("of the training")

    def fail(self, timeout_s):
        raise RuntimeError("of the pictures")

    monkeypatch.setattr(BackgroundWorker, "drain", fail)
    with pytest.raises(ZeroDivisionError, match="of the training"):
        fit(tmp_path, visualizations(), RememberingLogger(), callbacks=[Break()])


def test_interrupt_while_flushing_passes(monkeypatch):
    def interrupt(self, timeout_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(BackgroundWorker, "drain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        visualizer.Visualizer(visualizations()).flush()


def test_interrupt_in_a_snapshot_reaches_the_trainer(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(visualizer, "take_snapshot", interrupt)
    with pytest.raises(SystemExit):  # what Lightning makes of it
        fit(tmp_path, visualizations(), RememberingLogger())


def test_each_kind_of_failure_is_said_once(untouched, tmp_path, caplog):
    errors = {1: ConnectionError("a"), 2: OSError("b"), 4: ConnectionError("c"), 5: OSError("d")}

    def fault(key, step):
        if key.startswith("train") and step in errors:
            raise errors[step]

    logger = RememberingLogger(fault)
    warnings = check_training_steps(untouched, tmp_path, caplog, logger=logger)
    assert logger.steps() == [0, 3]
    assert len(warnings) == 2


def test_five_failures_in_a_row_turn_it_off_for_the_run(untouched, tmp_path, caplog, monkeypatch):
    taken, calls = [], []
    take = visualizer.take_snapshot

    def remember(batch, outs, moment, *args, **kwargs):
        taken.append(moment.step)
        return take(batch, outs, moment, *args, **kwargs)

    monkeypatch.setattr(visualizer, "take_snapshot", remember)

    def fault(key, step):
        calls.append((key, step))
        raise ConnectionError

    class Wait(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 4:  # the last step begins with the failures known
                wait_until(lambda: visualizer_of(pl_module).disabled)

    logger = RememberingLogger(fault)
    warnings = check_training_steps(untouched, tmp_path, caplog, logger=logger, callbacks=[Wait()])
    assert len(calls) == limits.MAX_FAILURES_IN_A_ROW
    assert max(taken) <= 4
    assert len(warnings) == 2
    assert "5 failures in a row; no more pictures are taken in this run" in warnings[1]


def test_ranking_of_clips_that_works_does_not_hide_that_drawing_fails(untouched, tmp_path, caplog):
    def fault(key, step):
        raise ConnectionError

    section = visualizations(worst_clips=1, every_n_steps=2)  # 3 + 2 + 2 pictures
    warnings = check_training_steps(untouched, tmp_path, caplog, section, RememberingLogger(fault))
    assert "5 failures in a row; no more pictures are taken in this run" in warnings[-1]


def test_next_trainer_draws_again(tmp_path):
    def fault(key, step):
        raise OSError

    module = SketchModule(visualizations())
    make_trainer(tmp_path, RememberingLogger(fault)).fit(module, clips(16))
    assert visualizer_of(module).disabled
    working = RememberingLogger()
    make_trainer(tmp_path, working).fit(module, clips(4))
    assert list(working.images) == [("train/composites", 0), ("train/composites", 1)]


def test_one_broken_logger_costs_the_others_nothing(untouched, tmp_path, caplog):
    def fault(key, step):
        raise ConnectionError("no route")

    broken, working = RememberingLogger(fault), RememberingLogger()
    warnings = check_training_steps(untouched, tmp_path, caplog, logger=[broken, working])
    assert working.steps() == [0, 1, 2, 3, 4, 5]
    assert len(warnings) == 1
    assert "other loggers did" in warnings[0]


# Loggers that do not take part


@pytest.mark.parametrize("answer", [None, False], ids=repr)
def test_logger_that_returns_none_took_the_pictures(answer, untouched, tmp_path, caplog):
    class Answers(RememberingLogger):
        def log_image(self, *args, **kwargs):
            super().log_image(*args, **kwargs)
            return answer

    logger = Answers()
    assert check_training_steps(untouched, tmp_path, caplog, logger=logger) == []
    assert logger.steps() == [0, 1, 2, 3, 4, 5]


def test_logger_whose_experiment_is_none_takes_no_pictures(untouched, tmp_path, caplog):
    class Closed(CSVLogger):
        experiment = None

        def log_metrics(self, metrics, step=None):
            pass

        save = finalize = log_hyperparams = lambda self, *args, **kwargs: None

    section = visualizations(run_book=False)
    warnings = check_training_steps(untouched, tmp_path, caplog, section, Closed(tmp_path))
    assert warnings == ["visualizations: no logger accepts images, so no pictures are drawn"]


def test_without_logger_nothing_is_drawn_and_it_is_said_once(untouched, tmp_path, caplog):
    training = fit(tmp_path, visualizations(), False)
    assert_same_training(training, untouched)
    warnings = our_warnings(caplog)
    assert [record.getMessage() for record in warnings] == [
        "visualizations: no logger accepts images, so no pictures are drawn"
    ]


def test_logger_without_images_gets_its_metrics_alone(untouched, tmp_path, caplog):
    csv = CSVLogger(tmp_path, name="csv", version="")
    assert check_training_steps(untouched, tmp_path, caplog, logger=csv) == []
    assert (tmp_path / "csv" / "run.html").is_file()
    assert "visualizations/" not in (tmp_path / "csv" / "metrics.csv").read_text()


def test_csv_is_never_written_from_two_threads(untouched, tmp_path, caplog):
    csv, working = CSVLogger(tmp_path, name="csv", version=""), RememberingLogger()
    threads = set()
    log_metrics = csv.log_metrics

    def remember(*args, **kwargs):
        threads.add(threading.current_thread())
        log_metrics(*args, **kwargs)

    csv.log_metrics = remember
    check_training_steps(untouched, tmp_path, caplog, logger=[csv, working])
    assert threads == {threading.main_thread()}
    assert "visualizations/render_ms" in working.scalars


def test_logger_that_comes_later_gets_pictures(tmp_path):
    module = SketchModule(visualizations())
    make_trainer(tmp_path, False).fit(module, clips(4))
    logger = RememberingLogger()
    make_trainer(tmp_path, logger).fit(module, clips(4))
    assert logger.steps() == [0, 1]


# Slowness


def test_logger_that_hangs_costs_a_bounded_time_at_the_end(untouched, tmp_path, caplog):
    release = threading.Event()
    logger = RememberingLogger(lambda key, step: release.wait(60))
    started = time.monotonic()
    warnings = check_training_steps(
        untouched, tmp_path, caplog, visualizations(flush_timeout_s=0.5), logger
    )
    elapsed = time.monotonic() - started
    release.set()
    assert 0.5 < elapsed < 15
    # 6 training steps, twice 2 validation clips (the first is pinned as well)
    assert warnings == [
        "visualizations: 10 pictures were dropped: they were not logged within "
        "visualizations.flush_timeout_s=0.5"
    ]


def test_validations_behind_a_logger_that_hangs_are_dropped_and_kept_nowhere(monkeypatch):
    taken, take = [], visualizer.take_snapshot

    def remember(*args, **kwargs):
        snapshot = take(*args, **kwargs)
        taken.append(weakref.ref(snapshot))
        return snapshot

    monkeypatch.setattr(visualizer, "take_snapshot", remember)
    logger, scene = WaitingLogger(), make_scene(num_frames=2, size=64)
    logger.open.clear()
    module = HookedModule(logger, worst_clips=1, max_pending=2, max_overhead=1.0)
    module.findings = Findings([], [AtDistance(1, 2, 0.0, 0.25, 0.5)], None, [])
    kept = []
    for step in range(20):
        for batch_idx in range(2):
            module.event(step, scene, "val", batch_idx)
        for prompt_type in ("point", "mask"):
            maybe_log_prompts(module, *scene, 0, prompt_type)
        (callback,) = module.trainer.callbacks
        callback.on_validation_end(module.trainer, module)
        assert step > 0 or logger.entered.wait(60)
        waiting = module.visualizer.worker.num_waiting_pictures()
        kept.append((sum(snapshot() is not None for snapshot in taken), waiting))
    # Two events, two pinned ones that were held, and what one validation has beside them.
    assert kept[10][1] <= 2 + 2 + 4
    assert kept[10:] == kept[10:11] * 10
    assert module.visualizer.dropped >= 10 * 2
    logger.open.set()
    module.visualizer.flush()


def test_pictures_are_drawn_again_after_a_logger_hung(tmp_path):
    release = threading.Event()
    module = SketchModule(visualizations(flush_timeout_s=0.2))
    hanging = RememberingLogger(lambda key, step: release.wait(60))
    make_trainer(tmp_path, hanging).fit(module, clips(4))
    release.set()
    wait_until(visualizer_of(module).worker.has_room)
    working = RememberingLogger()
    make_trainer(tmp_path, working).fit(module, clips(4))
    assert working.steps() == [0, 1]


@pytest.mark.parametrize("every_n_steps", [1, 2])
def test_pictures_dropped_behind_one_that_hangs_are_said_to_be(every_n_steps, tmp_path, caplog):
    release = threading.Event()
    module = SketchModule(visualizations(flush_timeout_s=0.2))
    hanging = RememberingLogger(lambda key, step: release.wait(60))
    make_trainer(tmp_path, hanging).fit(module, clips(4))
    caplog.clear()
    module.config.visualizations = visualizations(every_n_steps=every_n_steps)
    make_trainer(tmp_path, RememberingLogger()).fit(module, clips(4))
    assert [record.getMessage() for record in our_warnings(caplog)] == [
        "visualizations: a picture from an earlier run is still being drawn or logged; new ones "
        "are dropped until it finishes"
    ]
    assert visualizer_of(module).dropped == 2 // every_n_steps
    release.set()
    wait_until(visualizer_of(module).worker.has_room)


def test_full_queue_drops_new_pictures_and_says_so_once(untouched, tmp_path, caplog):
    release, entered = threading.Event(), threading.Event()

    def wait(key, step):
        entered.set()
        assert release.wait(60)

    class Release(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:  # the first picture has left the queue
                assert entered.wait(20)
            if batch_idx == 5:
                release.set()
                visualizer_of(pl_module).flush()

    logger = RememberingLogger(wait)
    section = visualizations(max_pending=1)
    warnings = check_training_steps(
        untouched, tmp_path, caplog, section, logger, callbacks=[Release()]
    )
    assert logger.steps() == [0, 1, 5]
    assert logger.scalars["visualizations/dropped"] >= 5
    assert len(warnings) == 1
    assert (
        "the drawing queue is full (1 picture, visualizations.max_pending=1 event)" in warnings[0]
    )
