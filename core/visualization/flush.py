"""Pictures that were taken are logged before a run ends, however it ends."""

import signal
import threading
from collections.abc import Callable
from typing import Any, Optional

from lightning.pytorch import Callback


class FlushCallback(Callback):
    """Has the pictures of a visualizer logged before a run ends, however it ends.

    It is added to the trainer by the first picture, so that no module needs to call a hook of ours.

    Args:
        visualizer: The `Visualizer` of the module; what is called of it never raises.
    """

    def __init__(self, visualizer: Any) -> None:
        self._visualizer = visualizer

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget the clips of a validation run that was interrupted."""
        self._visualizer.forget_clips()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the worst clips of the validation run."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._visualizer.log_worst(trainer.loggers, trainer.global_step)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Flush before the loggers are closed."""
        self._visualizer.flush()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Flush what was taken before the failure or interrupt."""
        self._visualizer.flush()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Flush after runs that have no `on_fit_end`, such as ``trainer.validate``."""
        self._visualizer.flush()


def let_python_handle_interrupts() -> None:
    """Put Python's handler of Ctrl+C back in the place of SwanLab's."""
    # SwanLab's handler closes its run before Lightning hears of the interrupt, and with it the
    # pictures still waiting. SwanLab closes the run all the same, when Lightning finalizes it.
    handler: Optional[Callable] = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is threading.main_thread()
        and callable(handler)
        and (getattr(handler, "__module__", "") or "").startswith("swanlab")
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
