"""One background thread that runs tasks in order, with room for a bounded number of them."""

import threading
import time
from collections import deque
from collections.abc import Callable


class BackgroundWorker:
    """Runs tasks one after the other, away from the training thread.

    The thread lives only while there is something to do: nothing is started before the first task,
    nothing idles behind a forking DataLoader, and a thread that died is replaced by the next task
    or by `drain`. It is a daemon, so a task that never returns cannot keep the process alive.

    Args:
        max_pending: Tasks that may wait, the running one not counted.
    """

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._given_up = False  # the running task: nothing is queued behind it

    def has_room(self) -> bool:
        """Return whether `submit` would take a task now."""
        with self._changed:
            return not self._is_stuck() and len(self._tasks) < self._max_pending

    def submit(self, task: Callable[[], None], *, even_if_full: bool = False) -> bool:
        """Queue a task and return True, or return False at once when there is no room.

        Args:
            task: Called without arguments on the worker's thread. One that raises ends the thread,
                and the next task starts another.
            even_if_full: Queue it all the same, for the few tasks that end something.
        """
        with self._changed:
            full = len(self._tasks) >= self._max_pending
            if self._is_stuck() or (full and not even_if_full):
                return False
            self._tasks.append(task)
            self._start_if_needed()
            return True

    def drain(self, timeout_s: float) -> int:
        """Wait until every task is done, at most `timeout_s` seconds.

        Returns:
            How many tasks were given up, the one that never returned among them. The worker takes
            new tasks again only once that one has returned.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (self._tasks or self._is_running()) and not self._is_stuck():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    self._given_up = self._is_running()
                    count = len(self._tasks) + self._given_up
                    self._tasks.clear()
                    return count
                self._start_if_needed()
                # Short waits notice a thread that died without saying so.
                self._changed.wait(min(remaining, 0.1))
            return 0

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _is_stuck(self) -> bool:
        return self._given_up and self._is_running()

    def _start_if_needed(self) -> None:
        if self._is_running():
            return
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="visualizations", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._given_up = False
                if not self._tasks:
                    self._thread = None
                    self._changed.notify_all()
                    return
                task = self._tasks.popleft()
            task()
            del task  # what it holds would live until the next one
