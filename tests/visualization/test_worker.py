"""The background worker: order, room, ends, and threads that die."""

import threading
import time
import weakref

import pytest
import torch
from torch.utils.data import DataLoader
from trainings import wait_until

from core.visualization.worker import BackgroundWorker

WAIT_S = 60.0


class Gate:
    """A task that says when it runs and goes on when it is let."""

    def __init__(self):
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.open.wait(WAIT_S)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


threads_of_other_tests = set()


def worker_threads():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name == "visualizations" and thread not in threads_of_other_tests
    ]


@pytest.fixture(autouse=True)
def own_threads():
    threads_of_other_tests.update(worker_threads())


def test_tasks_run_one_after_the_other_in_order():
    worker, seen = BackgroundWorker(100), []
    for number in range(50):
        assert worker.submit(lambda number=number: seen.append((number, threading.get_ident())))
    assert worker.drain(WAIT_S) == 0
    assert [number for number, _ in seen] == list(range(50))
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_full_queue_refuses_at_once_and_takes_tasks_again_later(gate):
    worker, seen = BackgroundWorker(2), []
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    assert worker.submit(lambda: seen.append(1))
    assert worker.has_room()
    assert worker.submit(lambda: seen.append(2))
    assert not worker.has_room()
    assert not worker.submit(lambda: seen.append(3))
    gate.open.set()
    assert worker.drain(WAIT_S) == 0
    assert worker.has_room()
    assert worker.submit(lambda: seen.append(4))
    assert worker.drain(WAIT_S) == 0
    assert seen == [1, 2, 4]


def test_a_full_queue_has_further_room_for_a_few_tasks(gate):
    worker, seen = BackgroundWorker(1, max_further=1), []
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    worker.submit(lambda: seen.append(1))
    assert worker.submit(lambda: seen.append(2), even_if_full=True)
    assert not worker.submit(lambda: seen.append(3), even_if_full=True)
    gate.open.set()
    assert worker.drain(WAIT_S) == 0
    assert seen == [1, 2]


def test_tasks_without_pictures_take_no_room_and_need_none(gate):
    worker, seen = BackgroundWorker(1), []
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    assert worker.submit(lambda: seen.append(1), num_pictures=0)
    assert worker.has_room()
    assert worker.submit(lambda: seen.append(2))
    assert not worker.has_room()
    assert worker.submit(lambda: seen.append(3), num_pictures=0)
    gate.open.set()
    assert worker.drain(WAIT_S) == 0
    assert seen == [1, 2, 3]


def test_drain_counts_pictures_not_tasks(gate):
    worker = BackgroundWorker(2)
    worker.submit(gate, num_pictures=2)
    assert gate.entered.wait(WAIT_S)
    worker.submit(lambda: None, num_pictures=3)
    worker.submit(lambda: None, num_pictures=0)
    assert worker.num_waiting_pictures() == 3
    assert worker.drain(0.05) == 5


def refuse_new_threads(monkeypatch):
    """The system has no room for another thread."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_task_that_no_thread_can_be_started_for_is_not_kept(monkeypatch):
    worker, seen = BackgroundWorker(1), []
    with monkeypatch.context() as full:
        refuse_new_threads(full)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            worker.submit(lambda: seen.append(1))
        assert worker.has_room()
        assert worker.drain(WAIT_S) == 0
    assert worker.submit(lambda: seen.append(2))
    assert worker.drain(WAIT_S) == 0
    assert seen == [2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_drain_gives_up_at_once_what_no_thread_can_be_started_for(gate, monkeypatch, caplog):
    worker, seen = BackgroundWorker(3), []

    def die():
        gate()
        raise SystemExit

    worker.submit(die)
    assert gate.entered.wait(WAIT_S)
    worker.submit(lambda: seen.append(1), num_pictures=2)
    gate.open.set()
    wait_until(lambda: not worker_threads())
    refuse_new_threads(monkeypatch)
    started = time.monotonic()
    assert worker.drain(WAIT_S) == 2
    assert time.monotonic() - started < WAIT_S / 2
    assert "the drawing thread could not be started" in caplog.text
    assert seen == []


def test_drain_counts_what_it_gives_up_within_its_limit(gate):
    worker, seen = BackgroundWorker(2), []
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    worker.submit(lambda: seen.append(1))
    worker.submit(lambda: seen.append(2))
    started = time.monotonic()
    assert worker.drain(0.05) == 3
    assert time.monotonic() - started < WAIT_S / 2
    gate.open.set()
    wait_until(lambda: not worker_threads())
    assert seen == []


def test_a_stuck_task_blocks_the_worker_until_it_returns(gate):
    worker, seen = BackgroundWorker(2), []
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    assert not worker.is_stuck()
    assert worker.drain(0.01) == 1
    assert worker.is_stuck()
    assert not worker.has_room()
    assert not worker.submit(lambda: seen.append(1))
    assert not worker.submit(lambda: seen.append(1), num_pictures=0, even_if_full=True)
    assert worker.drain(WAIT_S) == 0  # nothing is waited for a second time
    gate.open.set()
    wait_until(worker.has_room)
    assert worker.submit(lambda: seen.append(2))
    assert worker.drain(WAIT_S) == 0
    assert seen == [2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_stuck_task_that_dies_frees_the_worker(gate):
    worker, seen = BackgroundWorker(2), []

    def die():
        gate()
        raise SystemExit

    worker.submit(die)
    assert gate.entered.wait(WAIT_S)
    assert worker.drain(0.01) == 1
    gate.open.set()
    wait_until(worker.has_room)
    assert worker.submit(lambda: seen.append(1))
    assert worker.drain(WAIT_S) == 0
    assert seen == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced_by_the_next_task():
    worker, seen = BackgroundWorker(2), []

    def die():
        raise SystemExit

    worker.submit(die)
    wait_until(lambda: not worker_threads())
    assert worker.submit(lambda: seen.append(1))
    assert worker.drain(WAIT_S) == 0
    assert seen == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_drain_finishes_what_a_dead_thread_left_behind(gate):
    worker, seen = BackgroundWorker(3), []

    def die():
        gate()
        raise SystemExit

    worker.submit(die)
    assert gate.entered.wait(WAIT_S)
    worker.submit(lambda: seen.append(1))
    gate.open.set()
    wait_until(lambda: not worker_threads())
    assert worker.drain(WAIT_S) == 0
    assert seen == [1]


def test_no_thread_before_the_first_task_and_none_left_idle():
    worker = BackgroundWorker(2)
    assert worker.has_room()
    assert worker.drain(WAIT_S) == 0
    assert worker_threads() == []
    worker.submit(lambda: None)
    assert worker.drain(WAIT_S) == 0
    wait_until(lambda: not worker_threads())


def test_one_thread_waits_for_the_next_task_and_keeps_nothing_of_the_last():
    worker, threads = BackgroundWorker(2), []
    held = threading.Event()  # by nothing but the task
    alive = weakref.ref(held)
    worker.submit(lambda held=held: threads.append(threading.current_thread()))
    del held
    wait_until(lambda: alive() is None)
    assert worker_threads() == threads
    worker.submit(lambda: threads.append(threading.current_thread()))
    assert worker.drain(WAIT_S) == 0
    assert threads[0] is threads[1]
    wait_until(lambda: not worker_threads())
    worker.submit(lambda: threads.append(threading.current_thread()))
    assert worker.drain(WAIT_S) == 0
    assert threads[2] is not threads[0]


def test_the_thread_cannot_keep_the_process_alive(gate):
    worker = BackgroundWorker(2)
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    assert all(thread.daemon for thread in worker_threads())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_dataloader_forks_while_a_task_runs(gate):
    worker, seen = BackgroundWorker(2), []
    worker.submit(gate)
    assert gate.entered.wait(WAIT_S)
    worker.submit(lambda: seen.append(1))
    loader = DataLoader(torch.arange(6), batch_size=2, num_workers=1, timeout=WAIT_S)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    gate.open.set()
    assert worker.drain(WAIT_S) == 0
    assert seen == [1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_dataloader_forks_while_the_thread_waits():
    worker, seen = BackgroundWorker(2), []
    worker.submit(lambda: seen.append(1))
    wait_until(lambda: seen == [1])
    loader = DataLoader(torch.arange(4), batch_size=2, num_workers=1, timeout=WAIT_S)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
    worker.submit(lambda: seen.append(2))
    assert worker.drain(WAIT_S) == 0
    assert seen == [1, 2]
