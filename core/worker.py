"""One background thread that runs tasks in order, with room for a bounded number of them."""

import threading
import time
from collections import deque
from collections.abc import Callable


class BackgroundWorker:
    """Runs tasks one after the other, away from the training thread.

    The thread lives only while there is something to do: nothing is started before the first task,
    nothing idles behind a forking DataLoader, and a thread that died is replaced by the next task.
    It is a daemon, so a task that never returns cannot keep the process alive.

    Args:
        max_pending: Tasks that may wait, the running one not counted.
    """

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stuck = False

    def has_room(self) -> bool:
        """Return whether `submit` would take a task now."""
        with self._changed:
            return not self._is_stuck() and len(self._tasks) < self._max_pending

    def submit(self, task: Callable[[], None], *, even_if_full: bool = False) -> bool:
        """Queue a task and return True, or return False at once when there is no room.

        Args:
            task: Called without arguments on the worker's thread; must not raise.
            even_if_full: Queue it all the same, for the few tasks that end something.
        """
        with self._changed:
            if self._is_stuck() or (len(self._tasks) >= self._max_pending and not even_if_full):
                return False
            self._tasks.append(task)
            self._start()
            return True

    def drain(self, timeout_s: float) -> int:
        """Wait until every task is done, at most `timeout_s` seconds.

        Returns:
            How many tasks were given up, the one that never returned among them. The worker takes
            new tasks again only once that one has returned.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (self._tasks or self._busy()) and not self._is_stuck():
                self._start()  # what a thread that died left behind
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    given_up = len(self._tasks) + self._busy()
                    self._tasks.clear()
                    self._stuck = True
                    return given_up
                # Short waits notice a thread that was killed without saying so.
                self._changed.wait(min(remaining, 0.5))
            return 0

    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _is_stuck(self) -> bool:
        return self._stuck and self._busy()

    def _start(self) -> None:
        if self._tasks and not self._busy():
            self._stuck = False
            self._thread = threading.Thread(target=self._run, name="visualizations", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._stuck = False
                if not self._tasks:
                    self._thread = None
                    self._changed.notify_all()
                    return
                task = self._tasks.popleft()
            task()
