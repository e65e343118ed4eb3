"""The curves of a run, read from Lightning as they reach the loggers, whatever logger there is."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Optional, Union

from torch import Tensor

# Points that may wait for the drawing thread; the oldest are let go.
_MAX_WAITING = 4096

Held = Union[float, Tensor]


class CurveReader:
    """Reads the metrics of Lightning's trainer for the run book.

    The training thread reads; the drawing thread takes.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, dict[str, Held]]] = deque(maxlen=_MAX_WAITING)
        self._last_step = -1
        self._of_validation: set[str] = set()
        self._of_training: set[str] = set()
        self._before_validation: dict[str, Any] = {}

    def begin_validation(self, trainer: Any) -> None:
        """Remember what is logged already, which is none of the validation that begins."""
        self._before_validation = dict(_logged(trainer))

    def read(self, trainer: Any, after_validation: bool) -> bool:
        """Note what was logged since the last call.

        Values on another device stay there: who takes them waits for it.

        Args:
            trainer: Lightning's.
            after_validation: A validation has just ended; its metrics alone are noted, which are
                those that are not as they were at `begin_validation`.

        Returns:
            Whether points wait now and none did before: somebody must be told.
        """
        step = trainer.global_step
        if not after_validation and not self._is_due(trainer, step):
            return False
        logged = _logged(trainer)
        others = self._of_training if after_validation else self._of_validation
        values = {name: _held(value) for name, value in logged.items() if name not in others}
        if after_validation:
            before = self._before_validation
            values = {
                name: held for name, held in values.items() if logged[name] is not before.get(name)
            }
        known = {name: value for name, value in values.items() if value is not None}
        (self._of_validation if after_validation else self._of_training).update(known)
        was_empty = not self._waiting
        if known:
            self._waiting.append((step, known))
        return was_empty and bool(known)

    def take(self) -> list[dict[str, Any]]:
        """Return the points that wait, as `store.append_curves` takes them."""
        lines = []
        while self._waiting:
            step, values = self._waiting.popleft()
            lines.append(
                {"step": step, "values": {name: _number(value) for name, value in values.items()}}
            )
        return lines

    def _is_due(self, trainer: Any, step: int) -> bool:
        every = trainer.log_every_n_steps
        if every == 0:  # so a trainer is told to log nothing of its steps
            return False
        due = step % every == 0 or trainer.should_stop
        if not due or step == self._last_step:
            return False
        self._last_step = step
        return True


def _logged(trainer: Any) -> Mapping[str, Any]:
    """Return all that a trainer remembers of what was logged, the last value of each."""
    # Without a logger nothing reaches one, and the trainer remembers for its callbacks alone.
    return trainer.logged_metrics if trainer.loggers else trainer.callback_metrics


def _held(value: Any) -> Optional[Held]:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            return None
        return float(value) if value.is_cpu else value.detach()
    return float(value) if isinstance(value, (int, float)) else None


def _number(value: Held) -> Optional[float]:
    """Return six digits of it; None: NaN or infinite, which JSON does not know."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None
