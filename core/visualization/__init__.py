"""From a batch to a picture on a dashboard.

mixin.py        is a picture due (cadence.py)? hand it over (hosts.py: what a module has)
visualizer.py   training thread: take a snapshot, queue it, go on (limits.py: budget, failures)
snapshot.py     small copies of what a sheet needs (reduction.py; coverage.py: which panel pixels
                a mask covers), copied to the host once (transfer.py)
                of an image each round of clicks stands for a frame (rounds.py)
                and, of small objects, a window of the frame (window.py; rows.py: whose is what)
worker.py       one background thread, bounded
publisher.py    on that thread: snapshot -> clips (clip.py, palette.py) -> sheets (drawing/)
                -> loggers (images.py)
keeper.py       the run book of that run, whose faults cost it alone (book.py: what is stored and
                removed; record.py: clip -> JSON; outcome_record.py; curves.py; store.py: the files)
worst.py        the worst clips of a validation
flush.py        pictures are logged before a run ends
"""

from typing import TYPE_CHECKING, Any

from ..config import VisualizationsConfig
from .limits import VisualizationsError

if TYPE_CHECKING:
    from .mixin import VisualizationsMixin, visualizer_of

__all__ = ["VisualizationsConfig", "VisualizationsError", "VisualizationsMixin", "visualizer_of"]


def __getattr__(name: str) -> Any:
    """Load the mixin, and with it PyTorch's compiler, only for those who ask for it."""
    if name in ("VisualizationsMixin", "visualizer_of"):
        from . import mixin

        return getattr(mixin, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
