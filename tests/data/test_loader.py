"""The order of clips, and where training continues, from numbers alone."""

import pytest

from core.data.loader import ClipBatches, ClipOrder, Course, Position


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
    pairs = [pair for batch in ClipBatches(order, course) for pair in batch]
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
