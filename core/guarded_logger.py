"""Loggers whose scalars cannot end a training: a full disk or a lost service costs the curves."""

import logging
from collections.abc import Mapping
from typing import Any, Optional

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


class GuardedLogger(Logger):
    """Comes before a Lightning logger in the bases of a class; says once what no longer works.

    Attributes:
        service: What messages call it.
    """

    service: str
    _failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: Optional[int] = None) -> None:
        """Log scalars or pictures."""
        try:
            super().log_metrics(dict(metrics), step)  # type: ignore[safe-super]
        except Exception:
            # Whoever logs pictures, which come as lists, is told; scalars come from Lightning, in
            # the middle of training.
            if any(isinstance(value, list) for value in metrics.values()):
                raise
            self._say_once()

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Log the configuration."""
        try:
            super().log_hyperparams(params, *args, **kwargs)  # type: ignore[safe-super]
        except Exception:
            log.warning("%s did not store the configuration", self.service, exc_info=True)

    @rank_zero_only
    def save(self) -> None:
        """Write what is kept in memory; Lightning asks for it between steps."""
        try:
            super().save()
        except Exception:
            self._say_once()

    def _say_once(self) -> None:
        if not self._failed:
            log.warning(
                "%s no longer accepts metrics; training continues", self.service, exc_info=True
            )
        self._failed = True
