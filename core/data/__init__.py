"""Annotated videos as official ``BatchedVideoDatapoint`` batches.

    readers/         one file per format: a video's frames and masks; recognise.py: which it is
    split.py         which videos train, which validate
    finding.py       how many clips of each, and where; known.py: what is asked of a video for that
    index.py         keeps the answers from one run to the next
    clips.py         clips cut from videos; synthetic.py draws its own; augmentation.py varies them
    datapoint.py     a clip as Meta's ``VideoDatapoint``; whose generator draws what
    loader.py        the order of clips, resuming inside an epoch
    sources.py       several data sets in one run: whose turn it is, numbers of clips
    module.py        VideoDataModule, which puts them together
    check.py         ``python -m core.data``: look before you train
    health/          the page of the check: what is unusual, in pictures

A training item is a pure function of (seed, epoch, index), whatever the number of workers.
"""

from importlib import import_module
from typing import Any

from ..official import import_sam2

_HOMES = {
    "ClipDataset": ".clips",
    "DataError": ".readers.files",
    "SyntheticDataset": ".synthetic",
    "VideoDataModule": ".module",
}
__all__ = ["ClipDataset", "DataError", "SyntheticDataset", "VideoDataModule"]


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: ``python -m core.data`` says itself what is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_sam2()  # before anything of its package `training`
    return getattr(import_module(_HOMES[name], __name__), name)
