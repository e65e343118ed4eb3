"""Parts of a trainer, or steps of a module, that others replace while pictures are taken."""

import threading
import time
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from fakes import (
    HookedModule,
    RememberingLogger,
    SketchModule,
    SomeonesModule,
    WaitingLogger,
    visualizations,
)
from lightning.pytorch.tuner import Tuner
from scenes import clips, make_scene, widening_squares
from trainings import assert_nothing_logged_twice, make_trainer, our_warnings

from core.config import VisualizationsConfig
from core.visualization import limits, visualizer, visualizer_of


@pytest.fixture(autouse=True)
def time_to_spare(monkeypatch):
    """Nothing is left out because the machine is busy."""
    monkeypatch.setattr(limits, "GRACE_S", 600.0)


class Tuned(SomeonesModule):
    """Has what Lightning's Tuner changes."""

    lr = 0.01
    batch_size = 1

    def train_dataloader(self):
        return widening_squares(6, self.batch_size)

    def val_dataloader(self):
        return widening_squares(2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def slow_logger():
    """Takes so long that pictures are still waiting when training ends."""
    return RememberingLogger(lambda key, step: time.sleep(0.05))


def find_rate(trainer, module):
    Tuner(trainer).lr_find(module, num_training=8, update_attr=False)


def find_batch_size(trainer, module):
    Tuner(trainer).scale_batch_size(module, max_trials=1, steps_per_trial=2, init_val=1)
    module.batch_size = 1


def both(trainer, module):
    find_rate(trainer, module)
    find_batch_size(trainer, module)


def validate(trainer, module):
    trainer.validate(module, widening_squares(1), verbose=False)
    find_rate(trainer, module)


@pytest.mark.parametrize("tune", [find_rate, find_batch_size, both, validate])
def test_a_tuner_before_fit_costs_no_picture_of_the_run(tmp_path, tune, caplog):
    logger, module = slow_logger(), Tuned(visualizations(every_n_steps=2, worst_clips=1))
    trainer = make_trainer(tmp_path, logger)
    tune(trainer, module)
    logger.moments.clear()
    trainer.fit(module)
    assert logger.moments == [
        ("train/composites", 0),
        ("train/composites", 2),
        ("train/composites", 4),
        ("val/composites", 6),
        ("val/worst", 6),
    ]
    assert our_warnings(caplog) == []
    assert_nothing_logged_twice(logger)


def test_nothing_is_drawn_for_the_loggers_of_a_tuner(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(visualizer, "take_snapshot", lambda *args, **kwargs: taken.append(args))
    module = Tuned(visualizations())
    find_rate(make_trainer(tmp_path, RememberingLogger()), module)
    assert taken == []


def test_a_fast_dev_run_tries_the_pictures_out(tmp_path, monkeypatch):
    taken, take = [], visualizer.take_snapshot

    def remember(*args, **kwargs):
        taken.append(args)
        return take(*args, **kwargs)

    monkeypatch.setattr(visualizer, "take_snapshot", remember)
    make_trainer(tmp_path, RememberingLogger(), fast_dev_run=1).fit(Tuned(visualizations()))
    assert len(taken) == 2


class At(pl.Callback):
    """Does something to the trainer before one batch."""

    def __init__(self, batch_idx, do):
        self.batch_idx, self.do = batch_idx, do

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch_idx:
            self.do(trainer)


def remove_ours(trainer):
    trainer.callbacks = [item for item in trainer.callbacks if isinstance(item, At)]


@pytest.mark.parametrize("every", [1, 4])  # 4: after the change nothing is due in training
def test_callbacks_that_were_replaced_in_a_run_cost_no_picture(tmp_path, every):
    logger = slow_logger()
    module = SomeonesModule(visualizations(every_n_steps=every, worst_clips=1))
    trainer = make_trainer(tmp_path, logger, [At(2, remove_ours)])
    trainer.fit(module, widening_squares(4), widening_squares(1))
    assert logger.steps() == [*range(0, 4, every)]
    assert logger.moments[-2:] == [("val/composites", 4), ("val/worst", 4)]


def test_our_callback_is_added_once(tmp_path):
    module = SomeonesModule(visualizations())
    trainer = make_trainer(tmp_path, RememberingLogger())
    for epochs in (1, 2):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(module, widening_squares(2), widening_squares(1))
        trainer.validate(module, widening_squares(1), verbose=False)
    assert [type(item).__name__ for item in trainer.callbacks].count("FlushCallback") == 1


def test_loggers_that_are_replaced_and_come_back_get_every_picture_once(tmp_path):
    one, other = RememberingLogger(), RememberingLogger()
    module = SomeonesModule(visualizations())
    trainer = make_trainer(tmp_path, one)
    trainer.validate(module, widening_squares(1), verbose=False)
    for loggers in ([other], [one, other], [one]):
        trainer.loggers = loggers
        trainer.validate(module, widening_squares(1), verbose=False)
    assert [key for key, _ in one.moments] == [
        "val/composites",
        "val/composites_2",
        "val/composites_3",
    ]
    assert [key for key, _ in other.moments] == ["val/composites", "val/composites_2"]
    assert_nothing_logged_twice(one, other)


def test_a_logger_that_comes_in_the_middle_of_a_run_gets_the_rest(tmp_path):
    one, other = RememberingLogger(), RememberingLogger()
    swap = At(2, lambda trainer: setattr(trainer, "loggers", [other]))
    make_trainer(tmp_path, one, [swap]).fit(SomeonesModule(visualizations()), widening_squares(4))
    assert (one.steps(), other.steps()) == ([0, 1], [2, 3])


class Graphs:
    """A backend of ``torch.compile`` that runs what it gets as it is, and counts."""

    def __init__(self):
        self.num_compiled = 0

    def __call__(self, graph, inputs):
        self.num_compiled += 1
        return graph.forward


def compiled_fit(tmp_path, **fields):
    torch._dynamo.reset()
    graphs, logger = Graphs(), RememberingLogger()
    module = SketchModule(visualizations(**fields))
    compiled = torch.compile(module, backend=graphs)
    make_trainer(tmp_path, logger).fit(compiled, clips(4), clips(1))
    return graphs, logger, module


def test_a_compiled_module_keeps_the_pictures_out_of_its_graphs(tmp_path, caplog):
    import core.visualization.snapshot as snapshot

    without, _, _ = compiled_fit(tmp_path, enabled=False)
    with_pictures, logger, module = compiled_fit(tmp_path)
    assert with_pictures.num_compiled == without.num_compiled > 0
    assert logger.steps() == [0, 1]
    assert logger.steps("val") == [2]
    assert our_warnings(caplog) == []
    assert visualizer_of(module).dropped == 0
    # Nothing of the pictures' own code was compiled by itself either.
    assert torch._dynamo.eval_frame._debug_get_cache_entry_list(snapshot.take_snapshot) == []


def replace(module, section):
    module.config.visualizations = section


def change_in_place(module, section):
    vars(module.config.visualizations).update(vars(section))


@pytest.mark.parametrize("give", [replace, change_in_place])
def test_another_trainer_has_the_settings_that_the_module_has_then(give, tmp_path, caplog):
    logger, run = RememberingLogger(), {"run_dir": str(tmp_path / "run")}
    module = SketchModule(visualizations(every_n_steps=4, num_categories=2, **run))
    make_trainer(tmp_path, logger).fit(module, clips(12))
    give(module, visualizations(every_n_steps=2, max_frames=2, num_categories=3, **run))
    make_trainer(tmp_path, logger).fit(module, clips(12))
    assert logger.moments_of("train") == [
        ("train/composites", 0),
        ("train/composites", 4),
        ("train/composites_2", 0),
        ("train/composites", 2),
        ("train/composites_2", 4),
    ]
    # A panel of 64 px for each frame.
    before, after = (logger.images["train/composites" + which, 4][0] for which in ("", "_2"))
    assert 64 < len(after) - len(before) < 2 * 64
    assert_nothing_logged_twice(logger)
    # The run book goes on: the second fit is another start of it.
    assert len(list((tmp_path / "run" / "pictures").glob("start-*.json"))) == 2
    assert our_warnings(caplog) == []


def test_what_waits_when_another_trainer_comes_is_drawn_as_it_was_meant_to_be():
    logger, scene = WaitingLogger(), make_scene(num_frames=2, size=64)
    logger.open.clear()
    module = HookedModule(logger, max_overhead=1.0, max_frames=1, run_book=False)
    module.event(0, scene)
    assert logger.entered.wait(60)
    module.event(1, scene)
    settings = VisualizationsConfig(enabled=True, max_overhead=1.0, max_frames=2, run_book=False)
    module.config.visualizations = settings
    module.trainer = SimpleNamespace(**vars(module.trainer) | {"callbacks": []})
    threading.Timer(0.1, logger.open.set).start()
    module.event(0, scene)
    module.visualizer.flush()
    first, second, third = (logger.images[key][0] for key in logger.moments)
    assert len(first) == len(second) < len(third)


def test_the_book_of_a_run_without_one_is_left_alone(tmp_path):
    run_dir = str(tmp_path / "run")
    module = SketchModule(visualizations(run_dir=run_dir))
    make_trainer(tmp_path).fit(module, clips(4))
    before = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    module.config.visualizations = visualizations(run_dir=run_dir, run_book=False)
    make_trainer(tmp_path).fit(module, clips(4))
    assert sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir()) == before
