"""Which batches are drawn: by number, and in real fits whose steps are counted in odd ways."""

import lightning.pytorch as pl
import pytest
import torch
from fakes import RememberingLogger, SomeonesModule, visualizations
from scenes import widening_squares
from torch.utils.data import DataLoader
from trainings import make_trainer, our_warnings

from core.config import VisualizationsConfig
from core.visualization import limits
from core.visualization.cadence import Cadence


@pytest.fixture(autouse=True)
def time_to_spare(monkeypatch):
    """Nothing is left out because the machine is busy."""
    monkeypatch.setattr(limits, "GRACE_S", 600.0)


def due_steps(steps, every, is_fresh=True):
    cadence = Cadence(VisualizationsConfig(every_n_steps=every))
    return [
        step
        for index, step in enumerate(steps)
        if cadence.due("train", step, index, is_first_of_run=is_fresh and index == 0)
    ]


@pytest.mark.parametrize(
    ("steps", "every", "due"),
    [
        (range(10), 3, [0, 3, 6, 9]),
        (range(1, 12, 2), 4, [1, 5, 9]),  # no step is a multiple
        (range(2, 40, 7), 10, [2, 16, 23, 30]),
        ([0, 0, 0, 1, 1, 1, 2, 2, 2, 3], 2, [0, 2]),  # gradient accumulation
        ([0, 50, 51, 59, 100], 10, [0, 50, 100]),  # several intervals at once give one picture
        ([0, 1, 2, 8, 9], 1, [0, 1, 2, 8, 9]),
    ],
)
def test_due_is_the_first_batch_and_each_at_which_the_intervals_have_grown(steps, every, due):
    assert due_steps(steps, every) == due


@pytest.mark.parametrize(
    ("steps", "due"),
    [(range(6, 13), [8, 12]), (range(8, 13), [8, 12]), ([5, 7, 9, 11, 13], [9, 13])],
)
def test_a_resumed_run_goes_on_where_the_one_before_ended(steps, due):
    assert due_steps(steps, 4, is_fresh=False) == due


def test_steps_that_were_put_back_are_drawn_as_after_resuming():
    assert due_steps([0, 1, 2, 3, 4, 5, 2, 3, 4, 5], 4) == [0, 4, 4]


@pytest.mark.parametrize("stage", ["val", "test", "val/hard set", "Prüfung"])
def test_every_other_stage_counts_batches(stage):
    cadence = Cadence(VisualizationsConfig(every_n_steps=3, pinned_clips=0))
    assert [i for i in range(8) if cadence.due(stage, 17, i)] == [0, 3, 6]


def test_pinned_clips_are_counted_in_each_stage_by_its_own_batch_size():
    cadence = Cadence(VisualizationsConfig(every_n_steps=100, pinned_clips=4))
    for stage, size in (("val", 1), ("test", 3)):
        cadence.note_batch_size(cadence.due(stage, 0, 0), size)
    found = {
        stage: [event.num_videos for i in range(5) if (event := cadence.due(stage, 0, i))]
        for stage in ("val", "test")
    }
    assert found == {"val": [4, 3, 2, 1], "test": [4, 1]}


@pytest.mark.parametrize(
    ("stage", "error", "said"),
    [
        ("", ValueError, "stage must not be empty"),
        (None, TypeError, "stage must be a text such as 'train', got None"),
        (3, TypeError, "stage must be a text such as 'train', got 3"),
    ],
)
def test_what_is_no_name_is_refused(stage, error, said):
    with pytest.raises(error, match=said):
        Cadence(VisualizationsConfig()).due(stage, 0, 0)


class SeveralOptimizers(SomeonesModule):
    """Two optimizers by hand; ``warm_up``: the first batch steps but one of them."""

    def __init__(self, section, warm_up):
        super().__init__(section)
        self.automatic_optimization = False
        self.warm_up = warm_up

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]

    def training_step(self, batch, batch_idx):
        self.manual_backward(self._step(batch, batch_idx, "train"))
        num_stepped = 1 if self.warm_up and batch_idx == 0 else 2
        for optimizer in self.optimizers()[:num_stepped]:
            optimizer.step()


@pytest.mark.parametrize(
    ("warm_up", "every", "drawn"),
    [(True, 4, [0, 5, 9, 13]), (False, 4, [0, 4, 8, 12]), (True, 10, [0, 11]), (False, 3, None)],
)
def test_several_optimizers_do_not_end_the_pictures(tmp_path, warm_up, every, drawn):
    logger = RememberingLogger()
    module = SeveralOptimizers(visualizations(every_n_steps=every), warm_up)
    trainer = make_trainer(tmp_path, logger)
    trainer.fit(module, widening_squares(8))
    assert trainer.global_step == (15 if warm_up else 16)
    # Two steps a batch: 0, 2, 4, ...; the first at or after 3, 6, 9, 12.
    assert logger.steps() == (drawn or [0, 4, 6, 10, 12])


class HookAfterTheSteps(SeveralOptimizers):
    """Calls the hook at the very end of its step: the first batch has counted already."""

    def training_step(self, batch, batch_idx):
        loss = self.scale * batch.masks.float().mean()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        self._step(batch, batch_idx, "train")


def test_the_first_batch_is_drawn_where_its_steps_are_counted_already(tmp_path):
    logger = RememberingLogger()
    module = HookAfterTheSteps(visualizations(every_n_steps=5), False)
    make_trainer(tmp_path, logger).fit(module, widening_squares(6))
    assert logger.steps() == [2, 6, 10]


@pytest.mark.parametrize("steps_before", [3, 4])
def test_a_run_resumed_in_the_middle_of_an_epoch_draws_what_the_whole_run_would(
    tmp_path, steps_before
):
    section = visualizations(every_n_steps=2)
    loader = widening_squares(7)
    first = make_trainer(tmp_path, RememberingLogger(), max_steps=steps_before)
    first.fit(SomeonesModule(section), loader)
    first.save_checkpoint(tmp_path / "middle.ckpt")
    logger = RememberingLogger()
    resumed = make_trainer(tmp_path, logger, max_epochs=2)
    resumed.fit(SomeonesModule(section), loader, ckpt_path=tmp_path / "middle.ckpt")
    assert logger.steps() == [*range(4, resumed.global_step, 2)]


def test_fit_twice_with_one_trainer_goes_on_counting(tmp_path):
    logger, module = RememberingLogger(), SomeonesModule(visualizations(every_n_steps=2))
    trainer = make_trainer(tmp_path, logger, max_epochs=1)
    trainer.fit(module, widening_squares(3))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, widening_squares(3))
    assert logger.steps() == [0, 2, 4]


def test_validate_before_fit_leaves_the_cadence_alone(tmp_path):
    logger, module = RememberingLogger(), SomeonesModule(visualizations(every_n_steps=2))
    trainer = make_trainer(tmp_path, logger, val_check_interval=4)
    trainer.validate(module, widening_squares(2), verbose=False)
    trainer.fit(module, widening_squares(4), widening_squares(1))
    assert logger.moments == [
        ("val/composites", 0),
        ("train/composites", 0),
        ("train/composites", 2),
        ("val/composites", 4),
    ]


class AllRuns(SomeonesModule):
    def test_step(self, batch, batch_idx):
        self._step(batch, batch_idx, "test")

    def predict_step(self, batch, batch_idx):
        self._step(batch, batch_idx, "new videos")


class Named(pl.LightningDataModule):
    """Names its clips by stage."""

    def clip_name(self, stage, video):
        return f"clip {video} of {stage}"

    def test_dataloader(self):
        return widening_squares(5)

    predict_dataloader = test_dataloader


@pytest.mark.parametrize(("run", "stage"), [("test", "test"), ("predict", "new videos")])
def test_a_stage_of_any_name_is_drawn_as_validation_is(tmp_path, run, stage, caplog):
    logger = RememberingLogger()
    module = AllRuns(visualizations(every_n_steps=2, pinned_clips=2, worst_clips=1))
    getattr(make_trainer(tmp_path, logger), run)(module, Named())
    assert logger.moments == [
        (f"{stage}/composites", 0),
        (f"{stage}/composites_batch1", 0),
        (f"{stage}/composites_batch2", 0),
        (f"{stage}/composites_batch4", 0),
        (f"{stage}/worst", 0),
    ]
    (caption,) = logger.captions[f"{stage}/composites", 0]
    assert caption.startswith(f"{stage} · step 0 · clip 0 of {stage} · ")
    assert our_warnings(caplog) == []


class TwoSets(SomeonesModule):
    """Validates two data sets, each under a name of its own."""

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self._step(batch, batch_idx, ("easy", "hard")[dataloader_idx])


def test_each_stage_has_worst_clips_of_its_own(tmp_path):
    logger = RememberingLogger()
    module = TwoSets(visualizations(worst_clips=1, every_n_steps=10))
    make_trainer(tmp_path, logger).validate(
        module, [widening_squares(2), widening_squares(3)], verbose=False
    )
    assert sorted(logger.moments) == [
        (f"{stage}/{key}", 0) for stage in ("easy", "hard") for key in ("composites", "worst")
    ]


def loader_of_batches(*num_clips):
    batches = [next(iter(widening_squares(n, n))) for n in num_clips]
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def tags_and_steps(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {
        tag: [image.step for image in events.Images(tag)] for tag in sorted(events.Tags()["images"])
    }


def test_a_clip_keeps_its_tensorboard_tag_in_a_smaller_batch(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version="")
    section = visualizations(max_videos=2, pinned_clips=3, worst_clips=2)
    make_trainer(tmp_path, logger).fit(
        SomeonesModule(section), loader_of_batches(2, 1, 2), loader_of_batches(1, 3)
    )
    assert tags_and_steps(tmp_path) == {
        "train/composites/0": [0, 1, 2],
        "train/composites/1": [0, 2],
        "val/composites/0": [3],
        "val/composites_batch1/0": [3],
        "val/composites_batch1/1": [3],
        "val/worst/0": [3],
        "val/worst/1": [3],
    }


def test_one_slot_keeps_the_plain_tensorboard_tag(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version="")
    make_trainer(tmp_path, logger).fit(
        SomeonesModule(visualizations(worst_clips=1)), loader_of_batches(2, 1), loader_of_batches(2)
    )
    assert tags_and_steps(tmp_path) == {
        "train/composites": [0, 1],
        "val/composites": [2],
        "val/worst": [2],
    }
