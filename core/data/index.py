"""What is known of a data set's videos, kept in a file from one run to the next.

The file is not trusted: it may be damaged, of another data set or of another version of the
program, and nothing in it decides which files are read.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Optional

from lightning.pytorch.utilities import rank_zero_only

from .. import config
from ..config import NO_INDEX, DataConfig, SourceConfig
from ..files import replace_whole
from .known import KnownVideos
from .readers.reader import Reader

log = logging.getLogger(__name__)

_VERSION = 3
_MOST_BYTES = 2**29  # 50,000 videos take 5 MB
_FOLDER = "sam2-video-finetune"
# the settings that decide what a reader finds, paths among them
_PATHS = ("root", "train_annotations", "val_annotations", "image_root", "val_image_root")
_SETTINGS = (
    "source", "image_folder", "annotation_folder", "ignore_id", "unlabelled", "objects",
    "num_categories", "max_image_pixels",
)  # fmt: skip


class Index:
    """The file of one data set.

    Args:
        data: `data.index` and the settings that decide what a reader finds.
    """

    def __init__(self, data: DataConfig) -> None:
        """Read the file, if there is one that can be used."""
        self._opened_ns = time.time_ns()
        self._asked_for = data.index is not None
        self._key = _key_of(data)
        self._path = _place(data, self._key)
        self._kept = None if self._path is None else _read(self._path, self._key)
        self._known: list[KnownVideos] = []

    def videos_of(self, reader: Reader) -> KnownVideos:
        """Return a reader's videos with what the file has of them; readers come in a fixed order.

        The index must be opened before the reader, whose files may change meanwhile.
        """
        kept: dict[str, Any] = {}
        if self._kept is not None and len(self._known) < len(self._kept):
            kept = self._kept[len(self._known)]
        since = None if self._path is None else self._opened_ns
        self._known.append(KnownVideos(reader, kept, since))
        return self._known[-1]

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew, whole or not at all, if there is something new; never raises."""
        if self._path is None or not any(known.has_news for known in self._known):
            return
        body = json.dumps([known.to_keep() for known in self._known], separators=(",", ":"))
        header = {"version": _VERSION, "key": self._key, "digest": _digest(body)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_whole(self._path, f"{json.dumps(header)}\n{body}".encode())
        except OSError as error:
            log.log(
                logging.INFO if self._asked_for else logging.DEBUG,
                "the index of the data set cannot be written (%s): the next run looks through its"
                " videos again; data.index=PATH puts it elsewhere, data.index=off does without",
                error,
            )


def _key_of(data: DataConfig) -> str:
    """Return what tells data sets apart: their paths and the settings that they are read with."""
    paths = {name: getattr(data, name) for name in _PATHS}
    absolute = {name: path and os.path.abspath(path) for name, path in paths.items()}  # noqa: PTH100
    return json.dumps(absolute | {name: getattr(data, name) for name in _SETTINGS}, sort_keys=True)


def _place(data: DataConfig, key: str) -> Optional[Path]:
    """Return where the file is; None: there is to be none, or no home folder to put it in."""
    if data.index == NO_INDEX:
        return None
    name = f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.json"
    if data.index is not None:
        path = Path(data.index)
        # several data sets share what the user says
        return path / name if path.is_dir() or isinstance(data, SourceConfig) else path
    folder = config.cache_folder()
    return None if folder is None else folder / _FOLDER / name


def _read(path: Path, key: str) -> Optional[list[dict[str, Any]]]:
    """Return {video: what is kept of it} of each reader; None: there is nothing to be used."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        header, _, body = path.read_text(encoding="utf-8").partition("\n")
        told = json.loads(header)
        if told != {"version": _VERSION, "key": key, "digest": _digest(body)}:
            return None
        kept = json.loads(body)
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    is_whole = isinstance(kept, list) and all(isinstance(item, dict) for item in kept)
    return kept if is_whole else None


def _digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
