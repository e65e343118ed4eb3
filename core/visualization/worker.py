"""One background thread that runs tasks in order, with room for a bounded number of them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger(__name__)


class _Task(NamedTuple):
    run: Callable[[], None]
    num_pictures: int


class BackgroundWorker:
    """Runs tasks one after the other, away from the training thread.

    The thread is started by the first task, waits for further ones (to wake it costs training a
    fraction of what it costs to start one) and ends with `drain`; one that died is replaced. It is
    a daemon, so a task that never returns cannot keep the process alive, and holds no lock while it
    waits, so DataLoader workers may be forked beside it.

    Attributes:
        max_pending: Tasks with pictures that may wait, the running one not counted.
        max_further: So many more may wait of those that are queued even if it is full.
    """

    def __init__(self, max_pending: int, max_further: int = 0) -> None:
        self.max_pending = max_pending
        self.max_further = max_further
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: _Task | None = None
        self._given_up = False  # the running task: nothing is queued behind it
        self._ending = False

    def has_room(self) -> bool:
        """Return whether `submit` would take a task with pictures now."""
        with self._changed:
            return not self._is_stuck() and not self._is_full()

    def is_stuck(self) -> bool:
        """Return whether a task that `drain` gave up still runs."""
        with self._changed:
            return self._is_stuck()

    def num_waiting_pictures(self) -> int:
        """Return how many pictures wait, those of the running task not counted."""
        with self._changed:
            return sum(task.num_pictures for task in self._tasks)

    def submit(
        self, run: Callable[[], None], *, num_pictures: int = 1, even_if_full: bool = False
    ) -> bool:
        """Queue a task and return True, or return False at once when there is no room.

        Args:
            run: Called without arguments on the worker's thread. One that raises ends the thread,
                and the next task starts another.
            num_pictures: What `drain` counts if it gives the task up; 0 takes no room and needs
                none.
            even_if_full: It is one of the few tasks for which there is further room.

        Raises:
            RuntimeError: No thread can be started; the task is not kept.
        """
        with self._changed:
            further = self.max_further if even_if_full else 0
            if self._is_stuck() or (num_pictures > 0 and self._is_full(further)):
                return False
            self._tasks.append(_Task(run, num_pictures))
            self._ending = False
            try:
                self._wake()
            except BaseException:
                self._tasks.pop()
                raise
            return True

    def drain(self, timeout_s: float) -> int:
        """Wait until every task is done, at most `timeout_s` seconds, and let the thread end.

        Returns:
            How many pictures were given up, those of a task that never returned among them. The
            worker takes new tasks again only once that one has returned.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            while (self._tasks or self._is_running()) and not self._is_stuck():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return self._give_up()
                try:
                    self._wake()
                except Exception as error:
                    log.warning(
                        "visualizations: the drawing thread could not be started", exc_info=error
                    )
                    return self._give_up()
                # Short waits notice a thread that died without saying so.
                self._changed.wait(min(remaining, 0.1))
            return 0

    def _give_up(self) -> int:
        running = self._running if self._is_alive() else None
        self._given_up = running is not None
        lost = [*self._tasks] if running is None else [running, *self._tasks]
        self._tasks.clear()
        return sum(task.num_pictures for task in lost)

    def _is_full(self, further: int = 0) -> bool:
        waiting = sum(task.num_pictures > 0 for task in self._tasks)
        return waiting >= self.max_pending + further

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _is_running(self) -> bool:
        return self._running is not None and self._is_alive()

    def _is_stuck(self) -> bool:
        return self._given_up and self._is_running()

    def _wake(self) -> None:
        if self._is_alive():
            self._changed.notify_all()
            return
        self._given_up, self._running = False, None
        self._thread = threading.Thread(target=self._run, name="visualizations", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                # What the last task held is let go of before the wait.
                self._given_up, self._running = False, None
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._tasks or self._ending)
                if not self._tasks:
                    self._thread = None
                    return
                self._running = self._tasks.popleft()
            self._running.run()
