"""When to stop drawing: pictures that cost too much time, or that fail again and again."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Optional

log = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 5


class VisualizationsError(RuntimeError):
    """What would have been a warning, raised because ``visualizations.strict`` is true."""


# Blocked time is judged as a share of wall time only beyond this much in all: time counts from the
# run's first step, whose event is the slowest, and the next ones would be measured against almost
# none.
GRACE_S = 0.25


class Budget:
    """How long pictures have blocked training since the run's first step; one thread's alone.

    Args:
        max_overhead: The share of wall time that they may block.
    """

    def __init__(self, max_overhead: float) -> None:
        self._max_overhead = max_overhead
        self._started = time.perf_counter()
        self._blocked_s = 0.0

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time until the end of the ``with`` block, however it ends."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._blocked_s += time.perf_counter() - started

    def allows(self, part: float = 1.0) -> bool:
        """Return whether what blocked training so far is within a part of what it may."""
        allowed_s = self._max_overhead * (time.perf_counter() - self._started)
        return self._blocked_s < part * GRACE_S or self._blocked_s <= part * allowed_s

    def share(self) -> float:
        """Return the share of wall time that was blocked."""
        return self._blocked_s / max(time.perf_counter() - self._started, 1e-9)


class Troubles:
    """What went wrong in a run, as the training thread and the worker both tell it.

    Attributes:
        strict: Everything that would be a warning is raised as a `VisualizationsError`; the worker
            keeps what it catches, with `failed_in_background`, for the training thread to raise.
        disabled: Too many failures in a row: no more pictures in this run.
        num_dropped: Events of the run that were not drawn.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.disabled = False
        self.num_dropped = 0
        self._to_raise: list[VisualizationsError] = []
        self._said: set[str] = set()
        self._failures_in_a_row = 0
        self._without_images: Optional[list[Any]] = None
        self._lock = threading.Lock()

    def begin_anew(self) -> None:
        """Forget what was turned off and said; which loggers take no images stays known."""
        with self._lock:
            self.disabled, self.num_dropped = False, 0
            self._said, self._failures_in_a_row = set(), 0
            self._to_raise = []

    def dropped(self, kind: str, why: str) -> None:
        """Count an event that is not drawn, and say why once per kind."""
        with self._lock:
            self.num_dropped += 1
        self.say_once(kind, why)

    def take_no_images(self, loggers: Sequence[Any]) -> None:
        """Remember loggers of which none takes images, so that nothing more is drawn for them."""
        with self._lock:
            self._without_images = list(loggers)

    def are_useless(self, loggers: Sequence[Any]) -> bool:
        """Return whether none of these loggers takes images, where that is known already."""
        with self._lock:
            useless = self._without_images
        return list(loggers) == useless

    def worked(self) -> None:
        """End a row of failures: a picture was drawn and logged."""
        with self._lock:
            self._failures_in_a_row = 0

    def failed(self, doing: str, error: BaseException) -> None:
        """Count a failure, say each kind once, and stop drawing after five in a row.

        Raises:
            VisualizationsError: Failures are raised (``strict``).
        """
        if self.strict:
            if isinstance(error, VisualizationsError):
                raise error
            self._raise(f"visualizations: {doing} failed: {type(error).__name__}: {error}", error)
        with self._lock:
            self._failures_in_a_row += 1
            turn_off = self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW and not self.disabled
            self.disabled = self.disabled or turn_off
        self.say_once(
            f"{doing}: {type(error).__name__}",
            f"visualizations: {doing} failed; training continues (reported once per kind of "
            "failure)",
            error,
        )
        if turn_off:
            log.warning(
                "visualizations: %d failures in a row; no more pictures are taken in this run",
                MAX_FAILURES_IN_A_ROW,
            )

    def failed_in_background(self, doing: str, error: BaseException) -> None:
        """Do what `failed` does where nobody could catch what it raises, and keep that."""
        with self._kept_to_raise():
            self.failed(doing, error)

    def say_in_background(
        self, kind: str, message: str, error: Optional[BaseException] = None
    ) -> None:
        """Do what `say_once` does where nobody could catch what it raises, and keep that."""
        with self._kept_to_raise():
            self.say_once(kind, message, error)

    @contextlib.contextmanager
    def _kept_to_raise(self) -> Iterator[None]:
        try:
            yield
        except VisualizationsError as told:
            with self._lock:
                self._to_raise.append(told)

    def raise_what_failed(self) -> None:
        """Raise the first failure that was kept, and forget all of them.

        Raises:
            VisualizationsError: There is one.
        """
        if self._to_raise:
            raise self._take_kept()[0]

    def say_what_failed(self) -> None:
        """Warn of the failures that were kept, where another exception ends the run already."""
        for error in self._take_kept():
            log.warning("%s", error, exc_info=error)

    def _take_kept(self) -> list[VisualizationsError]:
        with self._lock:
            kept, self._to_raise = self._to_raise, []
        return kept

    def _raise(self, message: str, error: Optional[BaseException]) -> NoReturn:
        raise VisualizationsError(f"{message} (visualizations.strict=true)") from error

    def say_once(self, kind: str, message: str, error: Optional[BaseException] = None) -> None:
        """Warn, with the traceback of an error, unless this kind was said in this run already.

        Raises:
            VisualizationsError: Warnings are raised (``strict``), each time.
        """
        if self.strict:
            self._raise(message, error)
        with self._lock:
            if kind in self._said:
                return
            self._said.add(kind)
        log.warning(message, exc_info=error)
