"""SwanLab's logger as a training uses it; imported when one is built, as it needs ``swanlab``."""

import contextlib
from collections.abc import Callable
from typing import Any, Optional

from lightning.pytorch.utilities import rank_zero_only
from swanlab.integration.pytorch_lightning import SwanLabLogger

from .guarded_logger import GuardedLogger


def keep_silent() -> None:
    """Have SwanLab say nothing at its start and end: the run itself says where to look.

    It has no setting for this; its warnings and errors come as before.
    """
    with contextlib.suppress(ImportError):
        from swanlab.sdk.internal.pkg import console

        console.info = lambda *args, **kwargs: None


class BoundedSwanLabLogger(GuardedLogger, SwanLabLogger):
    """SwanLab's logger, whose end cannot hang and whose scalars cannot raise.

    Args:
        mode: SwanLab's mode.
        close_failed: Closes the run of a training that failed, in bounded time, given its status.
        **options: Those of ``SwanLabLogger``.
    """

    service = "SwanLab"

    def __init__(self, mode: str, close_failed: Callable[[str], Any], **options: Any) -> None:
        super().__init__(mode=mode, **options)
        self.mode = mode
        self._close_failed = close_failed

    @property
    def url(self) -> str:
        """Where the run of mode ``online`` is shown."""
        return str(self.experiment.url)

    @rank_zero_only
    def finalize(self, status: Optional[str] = None) -> None:
        """Close the run of a training that failed; `finish_swanlab` closes that of the others."""
        # "finished" is what Lightning says before a SLURM requeue, where training still logs.
        if status not in (None, "success", "finished"):
            self._close_failed(status)
