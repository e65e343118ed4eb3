"""The order of clips, and where training continues, from numbers alone."""

import itertools

import pytest

from core.data import loader
from core.data.loader import (
    BatchesToCome,
    ClipBatches,
    ClipOrder,
    Course,
    Position,
    ResumableLoader,
)
from core.data.sources import MixedOrder, Part


def test_order_depends_on_seed_and_epoch_alone():
    order = ClipOrder(9, 2, seed=1, shuffle=True)
    assert order.of(3) == ClipOrder(9, 2, seed=1, shuffle=True).of(3)
    assert sorted(order.of(3)) == list(range(9))
    assert order.of(3) != order.of(4)
    assert order.of(3) != ClipOrder(9, 2, seed=2, shuffle=True).of(3)
    assert ClipOrder(4, 2, seed=1, shuffle=False).of(7) == [0, 1, 2, 3]


def test_an_order_can_be_asked_again():
    order = ClipOrder(5, 2, seed=0, shuffle=True)
    first = order.of(0)
    order.of(1)
    assert order.of(0) == first


def test_batches_start_where_the_course_does():
    course, order = Course(), ClipOrder(7, 2, seed=0, shuffle=True)
    course.resume_at(Position(2, 1))
    course.begin(epoch=0, num_batches=4, trained=0)
    pairs = [pair for batch in BatchesToCome(order, course) for pair in batch]
    assert pairs == [(2, index) for index in order.of(2)[2:]]
    indices = order.of(0)
    assert list(ClipBatches(order)) == [
        [(0, index) for index in indices[start : start + 2]] for start in (0, 2, 4, 6)
    ]


def train(course: Course, epoch: int, num_batches: int, num_fetched: int) -> None:
    course.begin(epoch, num_batches, trained=0)
    for _ in range(num_fetched):
        course.fetched()


def test_batches_fetched_ahead_are_not_done():
    course = Course()
    train(course, epoch=0, num_batches=5, num_fetched=4)
    assert course.position(0, 5, trained=2) == Position(0, 2)
    assert course.position(0, 5, trained=None) == Position(0, 4)


def test_a_whole_epoch_ends_at_the_start_of_the_next():
    course = Course()
    train(course, epoch=0, num_batches=3, num_fetched=3)
    assert course.position(0, 3, trained=3) == Position(1, 0)
    assert course.position(1, 3, trained=0) == Position(1, 0)


def test_a_loaded_position_is_kept_until_a_pass_begins():
    course = Course()
    course.resume_at(Position(4, 2))
    assert course.position(0, 5, trained=0) == Position(4, 2)
    course.begin(epoch=6, num_batches=5, trained=3)
    assert course.start == Position(4, 2)
    course.fetched()
    # Lightning's counts are read as differences: one batch since the pass began
    assert course.position(6, 5, trained=4) == Position(4, 3)
    assert course.position(7, 5, trained=0) == Position(5, 0)


@pytest.mark.parametrize(("trained", "start"), [(0, Position(0, 1)), (None, Position(1, 0))])
def test_an_epoch_that_a_trainer_ended_early_goes_on(trained, start):
    course = Course()
    train(course, epoch=0, num_batches=4, num_fetched=1)
    course.begin(epoch=1, num_batches=4, trained=trained)
    assert course.start == start


def loader_of(order) -> ResumableLoader:
    clips = range(200)
    return ResumableLoader(
        order=order, progress=lambda: None, dataset=_Indices(clips), collate_fn=list
    )


class _Indices:
    """Returns the index of each clip."""

    def __init__(self, clips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key) -> tuple[int, int]:
        return key


def indices_of(batches) -> list[int]:
    return [index for batch in batches for _, index in batch]


@pytest.mark.parametrize("before", [60, 61, 0])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_an_epoch_goes_on_in_batches_of_another_size(before, batch_size):
    first = loader_of(ClipOrder(200, 2, seed=0, shuffle=True))
    batches = iter(first)
    seen = indices_of(next(batches) for _ in range(before))
    second = loader_of(ClipOrder(200, batch_size, seed=0, shuffle=True))
    second.load_state_dict(first.state_dict())
    batches = iter(second)
    seen += indices_of(next(batches) for _ in range(5))
    # and once more, in the batches that it began with
    third = loader_of(ClipOrder(200, 2, seed=0, shuffle=True))
    third.load_state_dict(second.state_dict())
    seen += indices_of(third)
    assert seen == ClipOrder(200, 2, seed=0, shuffle=True).of(0)
    assert third.state_dict() == {"epoch": 1, "batches": 0, "clips": 0}


@pytest.mark.parametrize(("ranks", "then"), [(1, 2), (2, 1), (2, 4), (4, 3)])
def test_an_epoch_goes_on_with_another_number_of_ranks(monkeypatch, ranks, then):
    def train(num_ranks, state, num_batches):
        """Return what all ranks see, and the state of each."""
        seen, states = [], []
        for rank in range(num_ranks):
            monkeypatch.setattr(loader, "world", lambda rank=rank: (rank, num_ranks))
            of_rank = loader_of(ClipOrder(200, 2, seed=0, shuffle=True))
            if state is not None:
                of_rank.load_state_dict(state)
            batches = iter(of_rank)
            seen += indices_of(itertools.islice(batches, num_batches))
            states.append(of_rank.state_dict())
        assert all(found == states[0] for found in states)
        return seen, states[0]

    seen, state = train(ranks, None, 5)
    assert state["clips"] == 5 * 2 * ranks
    rest, _ = train(then, state, 1000)
    assert not set(seen) & set(rest)
    assert sorted([*seen, *dict.fromkeys(rest)]) == list(range(200))


def test_a_state_without_clips_counts_batches():
    resumed = loader_of(ClipOrder(200, 4, seed=0, shuffle=True))
    resumed.load_state_dict({"epoch": 3, "batches": 45})
    assert indices_of(resumed) == ClipOrder(200, 4, seed=0, shuffle=True).of(3)[180:]


@pytest.mark.parametrize("sizes", [(2, 2), (4, 4), (1, 3)])
def test_several_data_sets_go_on_after_about_as_many_clips(sizes):
    before = MixedOrder([Part(0, 60, 2), Part(60, 120, 2)], seed=0)
    after = MixedOrder([Part(0, 60, sizes[0]), Part(60, 120, sizes[1])], seed=0)
    for done in (0, 1, 44, 89):
        position = after.position_after(2, before.clips_before(Position(2, done)))
        assert abs(after.clips_before(position) - 2 * done) < max(sizes)
        if sizes == (2, 2):
            assert position == Position(2, done)
    assert after.position_after(2, 180) == Position(3)
