"""What pictures may cost training: the limit on blocked time, drops, and hooks that do nothing."""

import logging
import threading
from types import SimpleNamespace

import pytest
import torch
from fakes import HookedModule, WaitingLogger

from core.visualization import limits, publisher, visualizer, visualizer_of
from core.visualization.limits import GRACE_S
from core.visualization.worst import MAX_UNRANKED

SIZE = 16


class Untouchable:
    """Fails the test when anything is read from it."""

    def __getattribute__(self, name):
        pytest.fail(f"{name} was read")  # no Exception: the hook lets it pass

    __len__ = __iter__ = __getitem__ = __bool__ = None


class Clock:
    """Replaces the `time` module of what measures cost: time passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (limits, publisher, visualizer):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def slow_snapshots(monkeypatch, clock):
    """Every snapshot takes as long as `.seconds` says."""
    take, cost = visualizer.take_snapshot, SimpleNamespace(seconds=0.0, taken=0)

    def take_slowly(*args, **kwargs):
        clock.now += cost.seconds
        cost.taken += 1
        return take(*args, **kwargs)

    monkeypatch.setattr(visualizer, "take_snapshot", take_slowly)
    return cost


@pytest.fixture
def logger():
    logger = WaitingLogger()
    yield logger
    logger.open.set()


@pytest.fixture(scope="module")
def scene():
    """A batch of one video, one frame, one object."""
    mask = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    mask[..., 4:9, 4:9] = True
    batch = SimpleNamespace(
        img_batch=torch.zeros(1, 1, 3, SIZE, SIZE),
        masks=mask,
        obj_to_frame_idx=torch.zeros(1, 1, 2, dtype=torch.int64),
        metadata=SimpleNamespace(unique_objects_identifier=torch.zeros(1, 1, 3, dtype=torch.int64)),
    )
    return batch, [{"pred_masks_high_res": mask[0, :, None] * 2.0 - 1.0}]


def steps(logger):
    return [step for _, step in logger.moments]


def budget_notices(caplog):
    return [record for record in caplog.records if "max_overhead" in record.getMessage()]


def test_events_are_skipped_with_one_notice_while_the_share_is_too_large(
    clock, slow_snapshots, scene, logger, caplog
):
    module = HookedModule(logger, max_overhead=0.1)
    module.event(1, scene)
    module.visualizer.flush()
    slow_snapshots.seconds = GRACE_S
    module.event(2, scene)  # all the time was blocked
    module.visualizer.flush()
    with caplog.at_level(logging.WARNING):
        for step in (3, 4, 5):
            clock.now += GRACE_S
            module.event(step, scene)
    module.visualizer.flush()
    assert steps(logger) == [1, 2]
    assert slow_snapshots.taken == 2
    assert module.visualizer.dropped == 3
    (notice,) = budget_notices(caplog)
    assert "max_overhead=0.1" in notice.getMessage()
    assert "50.0%" in notice.getMessage()


def test_events_are_taken_again_once_the_share_is_small_enough(
    clock, slow_snapshots, scene, logger
):
    module = HookedModule(logger, max_overhead=0.1)
    slow_snapshots.seconds = GRACE_S
    module.event(1, scene)
    module.visualizer.flush()
    slow_snapshots.seconds = 0.0
    clock.now += 8 * GRACE_S
    module.event(2, scene)  # one of 9 parts
    clock.now += 2 * GRACE_S
    module.event(3, scene)  # one of 11 parts
    module.visualizer.flush()
    assert steps(logger) == [1, 3]
    assert module.visualizer.dropped == 1


def test_the_first_events_of_a_run_are_not_judged(clock, slow_snapshots, scene, logger):
    module = HookedModule(logger, max_overhead=0.001)
    slow_snapshots.seconds = 0.3 * GRACE_S
    for step in range(1, 4):
        module.event(step, scene)
        module.visualizer.flush()
    assert steps(logger) == [1, 2, 3]
    assert module.visualizer.dropped == 0


def test_a_quarter_of_a_second_is_already_judged(clock, slow_snapshots, scene, logger):
    module = HookedModule(logger, max_overhead=0.1)
    slow_snapshots.seconds = 0.25
    module.event(1, scene)
    clock.now += 1.0
    module.event(2, scene)  # 0.25 of 1.25 s
    module.visualizer.flush()
    assert steps(logger) == [1]
    assert module.visualizer.dropped == 1


def test_worst_clips_never_cost_a_picture(clock, slow_snapshots, scene, logger, caplog):
    module = HookedModule(logger, max_overhead=0.1, worst_clips=1, every_n_steps=1000)
    slow_snapshots.seconds = 0.1
    for step in (1, 2, 3):
        module.event(step, scene, "val")  # the pinned clip, and the first candidates
        for batch_idx in range(1, 20):
            clock.now += 0.01
            module.event(step, scene, "val", batch_idx)
        clock.now += 5.0
        module.visualizer.log_worst([logger], step)
        module.visualizer.flush()
    # 0.2 s at first, then 0.1 s for the picture, and candidates up to a twentieth of the time.
    assert steps(logger) == [1, 1, 2, 2, 3, 3]
    assert {key for key, _ in logger.moments} == {"val/composites", "val/worst"}
    assert module.visualizer.dropped == 0
    assert slow_snapshots.taken * 0.1 <= 0.1 * (clock.now - 100.0)
    notices = [record.getMessage() for record in caplog.records]
    assert len(notices) == 1
    assert "val/worst covers only 1 of the 20 validated clips" in notices[0]


def test_candidates_for_the_worst_clips_that_wait_are_bounded(slow_snapshots, scene, logger):
    module = HookedModule(logger, worst_clips=1, every_n_steps=1000, max_overhead=1.0)
    logger.open.clear()
    module.event(1, scene, "val")
    assert logger.entered.wait(60)
    for batch_idx in range(1, 3 * MAX_UNRANKED):
        module.event(1, scene, "val", batch_idx)
    assert slow_snapshots.taken <= 1 + MAX_UNRANKED + 1
    assert module.visualizer.dropped == 0
    logger.open.set()
    module.visualizer.log_worst([logger], 1)
    module.visualizer.flush()
    assert [key for key, _ in logger.moments] == ["val/composites", "val/worst"]


def test_candidates_take_no_room_from_pictures(scene, logger):
    module = HookedModule(logger, worst_clips=1, max_pending=2, every_n_steps=4, max_overhead=1.0)
    logger.open.clear()
    module.event(1, scene, "val")
    assert logger.entered.wait(60)
    for batch_idx in range(1, 9):
        module.event(1, scene, "val", batch_idx)
    logger.open.set()
    module.visualizer.flush()
    assert [key for key, _ in logger.moments] == [
        "val/composites", "val/composites_batch4", "val/composites_batch8"
    ]  # fmt: skip


@pytest.fixture
def never_ready(monkeypatch):
    """Snapshots whose copies the device has not made; only the worker may wait for it."""
    take, waits = visualizer.take_snapshot, []

    class DeviceEvent:
        def synchronize(self):
            waits.append(threading.current_thread())

        def query(self):
            return False

    def take_on_device(*args, **kwargs):
        snapshot = take(*args, **kwargs)
        snapshot.event = DeviceEvent()
        return snapshot

    monkeypatch.setattr(visualizer, "take_snapshot", take_on_device)
    return waits


def test_worst_clips_never_make_training_wait_for_the_device(never_ready, scene, logger):
    module = HookedModule(logger, worst_clips=1, max_pending=12, max_overhead=1.0)
    for batch_idx in range(6):
        module.event(1, scene, "val", batch_idx)
    module.visualizer.log_worst([logger], 1)
    module.visualizer.flush()
    assert ("val/worst", 1) in logger.moments
    assert len(never_ready) == 2 * 6  # each batch is drawn and ranked
    assert threading.main_thread() not in never_ready


def test_cost_is_logged_with_each_event(clock, slow_snapshots, scene, logger):
    module = HookedModule(logger)
    slow_snapshots.seconds = 0.25
    module.event(7, scene)
    module.visualizer.flush()
    ((step, metrics),) = logger.metrics
    assert step == 7
    assert set(metrics) == {f"visualizations/{n}" for n in ("blocked_ms", "render_ms", "dropped")}
    assert all(type(value) is float for value in metrics.values())
    assert metrics["visualizations/blocked_ms"] == pytest.approx(250.0)
    assert metrics["visualizations/render_ms"] == 0.0  # this clock stands still meanwhile
    assert metrics["visualizations/dropped"] == 0.0


def test_cost_of_further_events_of_a_step_is_in_the_next_value(
    clock, slow_snapshots, scene, logger
):
    module = HookedModule(logger, max_overhead=1.0, max_pending=100, every_n_steps=2)
    slow_snapshots.seconds = 0.125
    module.event(2, scene)
    for batch_idx in (0, 2, 4):
        module.event(2, scene, "val", batch_idx)
    module.event(4, scene)
    module.visualizer.flush()
    assert [step for step, _ in logger.metrics] == [2, 4]
    blocked = [metrics["visualizations/blocked_ms"] for _, metrics in logger.metrics]
    assert blocked == pytest.approx([125.0, 4 * 125.0])


def test_cost_of_looking_for_the_worst_clips_is_logged(clock, slow_snapshots, scene, logger):
    module = HookedModule(
        logger, max_overhead=1.0, pinned_clips=0, worst_clips=1, every_n_steps=1000
    )
    module.event(3, scene, "val")
    module.visualizer.flush()
    slow_snapshots.seconds = 0.0625
    for batch_idx in (1, 2):
        module.event(4, scene, "val", batch_idx)
    module.visualizer.log_worst([logger], 4)
    module.visualizer.flush()
    assert [step for step, _ in logger.metrics] == [3, 4]
    assert logger.metrics[1][1]["visualizations/blocked_ms"] == pytest.approx(125.0)


def test_drops_are_counted_and_nothing_is_read_when_there_is_no_room(slow_snapshots, scene, logger):
    module = HookedModule(logger, max_pending=1)
    logger.open.clear()
    module.event(1, scene)
    assert logger.entered.wait(60)
    module.event(2, scene)
    module.event(3, scene)
    module.event(4, scene)
    assert slow_snapshots.taken == 2
    assert module.visualizer.dropped == 2
    logger.open.set()
    module.visualizer.flush()
    module.event(5, scene)
    module.visualizer.flush()
    assert steps(logger) == [1, 2, 5]
    assert [metrics["visualizations/dropped"] for _, metrics in logger.metrics][-1] == 2.0


def test_a_skipped_event_reads_no_tensor(clock, slow_snapshots, scene, logger):
    module = HookedModule(logger, max_overhead=0.1)
    slow_snapshots.seconds = GRACE_S
    module.event(1, scene)
    module.visualizer.flush()
    shape_only = SimpleNamespace(img_batch=SimpleNamespace(shape=(1, 1, 3, SIZE, SIZE)))
    module.event(2, (shape_only, Untouchable()))
    assert module.visualizer.dropped == 1


@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"is_global_zero": False},
        {"sanity_checking": True},
    ],
)
@pytest.mark.parametrize("stage", ["train", "val"])
def test_hook_touches_nothing_when_it_has_nothing_to_do(change, stage, logger):
    module = HookedModule(logger, enabled=change.get("enabled", True))
    for name in change.keys() - {"enabled"}:
        setattr(module.trainer, name, change[name])
    module.maybe_log_visualizations(Untouchable(), Untouchable(), 0, stage)
    assert visualizer_of(module) is None
    assert module.trainer.callbacks == []


def test_disabled_hook_does_not_even_ask_the_trainer():
    module = HookedModule(None, enabled=False)
    module.trainer = Untouchable()
    module.maybe_log_visualizations(Untouchable(), Untouchable(), 0, "train")


@pytest.mark.parametrize("make_batch", [lambda: None, Untouchable], ids=["none", "untouchable"])
@pytest.mark.parametrize(("stage", "batch_idx"), [("train", 3), ("val", 3)])
def test_hook_touches_no_tensor_when_not_due(stage, batch_idx, make_batch, logger, caplog):
    module = HookedModule(logger, every_n_steps=5)
    module.trainer.global_step = 3
    module.maybe_log_visualizations(make_batch(), Untouchable(), batch_idx, stage)
    assert caplog.records == []  # a failure would be said
    assert module.visualizer.dropped == 0


def test_no_thread_is_started_by_a_hook_that_is_not_due(scene, logger):
    before = set(threading.enumerate())
    module = HookedModule(logger, every_n_steps=5)
    module.event(3, scene, batch_idx=3)
    assert set(threading.enumerate()) <= before
