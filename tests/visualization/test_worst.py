"""Which clips of a validation run are kept, and that the others are let go."""

import gc
import math
import weakref
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from fakes import RememberingLogger, SketchModule, visualizations
from scenes import clips
from trainings import make_trainer

from core.visualization import visualizer, visualizer_of
from core.visualization.snapshot import Snapshot as RealSnapshot
from core.visualization.worst import MAX_UNRANKED, WorstClips


class Snapshot:
    """Stands for one whose clips have the given scores."""

    def __init__(self, *scores):
        self._scores = scores
        self.videos = range(len(scores))

    def clips(self):
        return [SimpleNamespace(mean_iou=score) for score in self._scores]


def scores(worst):
    return [clip.mean_iou for clip in worst.clips()]


@pytest.mark.parametrize(("num_kept", "kept"), [(1, [0.1]), (3, [0.1, 0.2, 0.5]), (9, None)])
def test_worst_clips_come_first(num_kept, kept):
    worst = WorstClips(num_kept)
    for snapshot in (Snapshot(0.7, 0.2), Snapshot(0.5), Snapshot(0.9, 0.1)):
        worst.add(snapshot)
    worst.rank()
    assert scores(worst) == (kept or [0.1, 0.2, 0.5, 0.7, 0.9])
    assert worst.num_ranked == 5


def test_first_ones_of_equal_clips_are_kept_in_order():
    worst = WorstClips(2)
    for name in "abc":
        clip = SimpleNamespace(mean_iou=0.5, name=name)
        worst.add(SimpleNamespace(clips=lambda clip=clip: [clip]))
        worst.rank()
    assert [clip.name for clip in worst.clips()] == ["a", "b"]


def test_clips_with_most_frames_of_a_failure_come_first_and_those_without_it_never():
    worst = WorstClips(3)
    worst.add(Snapshot(0.1, 0.8), [0.0, 0.25])
    worst.add(Snapshot(0.9, 0.7, math.nan), [0.5, 0.25, 1.0])
    worst.rank()
    assert scores(worst) == [0.9, 0.7, 0.8]


def test_clips_that_cannot_be_measured_are_looked_at_and_not_kept():
    worst = WorstClips(2)
    worst.add(Snapshot(math.nan, 0.4))
    worst.rank()
    assert scores(worst) == [0.4]
    assert worst.num_ranked == 2


def test_snapshots_are_let_go_once_they_are_ranked():
    worst, snapshot = WorstClips(1), Snapshot(0.3)
    alive = weakref.ref(snapshot)
    worst.add(snapshot)
    del snapshot
    assert alive() is not None
    worst.rank()
    gc.collect()
    assert alive() is None


def test_a_snapshot_that_fails_does_not_keep_the_next_one_from_being_ranked():
    worst = WorstClips(1)
    worst.add(SimpleNamespace(clips=lambda: 1 / 0))
    worst.add(Snapshot(0.3))
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        worst.rank()
    worst.rank()
    assert scores(worst) == [0.3]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_room_for_clips_ends_and_comes_back_with_ranking(batch_size):
    worst = WorstClips(1)
    for _ in range(MAX_UNRANKED // batch_size):
        assert worst.has_room()
        worst.add(Snapshot(*[0.5] * batch_size))
    assert not worst.has_room()
    worst.rank()
    assert worst.has_room()


def test_a_long_validation_keeps_few_snapshots_and_clips(tmp_path, monkeypatch):
    taken, built, most = [], [], {"snapshots": 0, "clips": 0}
    take, build = visualizer.take_snapshot, RealSnapshot.clips

    def remember_snapshot(*args, **kwargs):
        snapshot = take(*args, **kwargs)
        taken.append(weakref.ref(snapshot))
        return snapshot

    def remember_clips(snapshot):
        found = build(snapshot)
        built.extend(weakref.ref(clip) for clip in found)
        return found

    def num_alive(references):
        return sum(reference() is not None for reference in list(references))

    class Count(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            most["snapshots"] = max(most["snapshots"], num_alive(taken))
            if batch_idx % 10 == 9:
                visualizer_of(pl_module).worker.drain(60)
            most["clips"] = max(most["clips"], num_alive(built))

    monkeypatch.setattr(visualizer, "take_snapshot", remember_snapshot)
    monkeypatch.setattr(RealSnapshot, "clips", remember_clips)
    section = visualizations(worst_clips=2, pinned_clips=0, every_n_steps=1000)
    logger = RememberingLogger()
    trainer = make_trainer(tmp_path, logger, [Count()], val_check_interval=1, max_steps=1)
    trainer.fit(SketchModule(section), clips(2), clips(200, batch_size=1))
    assert len(logger.images["val/worst", 1]) == 2
    assert len(built) > 3 * MAX_UNRANKED
    # Beside the ones kept or waiting: the one being ranked, and pictures being drawn.
    assert most["clips"] <= 2 + 4
    assert most["snapshots"] <= MAX_UNRANKED + 4
    gc.collect()
    assert num_alive(taken) == num_alive(built) == 0
