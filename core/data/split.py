"""Which videos train, which validate."""

import contextlib
import gc
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from lightning.pytorch.utilities import rank_zero_warn

from ..config import DataConfig
from ..words import counted
from .finding import can_be_cut
from .index import Index
from .known import KnownVideos
from .readers.files import DataError, NoAnnotatedFrameError, check_is_file, exists, name_some
from .readers.reader import SOURCES, Reader, Source
from .readers.recognise import hint_at_source


@dataclass(frozen=True)
class Videos:
    """Some videos of a reader, by their indices."""

    known: KnownVideos
    indices: list[int]

    @property
    def reader(self) -> Reader:
        """Where their frames and masks come from."""
        return self.known.reader


@dataclass(frozen=True)
class Split:
    """The videos of training and of validation, whose reader may be the same, and their index."""

    train: Videos
    val: Videos
    index: Index


def split_videos(data: DataConfig) -> Split:
    """Open a data set and split its videos.

    An annotation file of validation comes first, and each list chooses among the videos of its own
    file. Then come lists of the videos of one data set, then `data.val_fraction`. Of a data set
    that only validates all videos do, or those of its list.

    Args:
        data: Any source but ``synthetic``.

    Raises:
        DataError: The data set or a list cannot be used.
    """
    source = SOURCES[data.source]
    with _without_garbage_collection():
        index = Index(data)
        reader, val_reader = _open(source, data)
    known = index.videos_of(reader)
    train_list, val_list = _lists(data, source)
    val_known = known if val_reader is reader else index.videos_of(val_reader)
    if not data.trains:
        validating = _listed_videos(val_known, val_list, "val_list", data)
        return Split(Videos(known, []), validating, index)
    if val_reader is not reader:
        return Split(
            _listed_videos(known, train_list, "train_list", data),
            _listed_videos(val_known, val_list, "val_list", data),
            index,
        )
    train = None if train_list is None else _read_list(train_list, "train_list", reader, data)
    if val_list is None:
        return Split(*_split_by_fraction(known, train, data), index)
    val = _read_list(val_list, "val_list", reader, data)
    return Split(*_split_by_lists(known, train, val, data), index)


def _open(source: Source, data: DataConfig) -> tuple[Reader, Reader]:
    try:
        return source.open(data)
    except DataError as error:
        if "data=" in str(error):  # it names another one already
            raise
        raise DataError(f"{error}{hint_at_source(data)}") from error


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Of what is read nothing is garbage yet: looking for some takes longer than reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _listed_videos(known: KnownVideos, path: Optional[str], field: str, data: DataConfig) -> Videos:
    """Return the videos that a list file names, all where there is none."""
    if path is None:
        return Videos(known, list(range(len(known.reader.names))))
    return Videos(known, _read_list(path, field, known.reader, data))


def _lists(data: DataConfig, source: Source) -> tuple[Optional[str], Optional[str]]:
    """Return the lists of training and validation: the user's, or those of the data set."""
    lists = data.train_list, data.val_list
    if lists == (None, None) and source.lists is not None and data.root is not None:
        root = Path(data.root)
        if all((root / path).is_file() for path in source.lists):
            return source.lists
    return lists


def _split_by_lists(
    known: KnownVideos, train: Optional[list[int]], val: list[int], data: DataConfig
) -> tuple[Videos, Videos]:
    """Split as the list of validation says; without one of training all others are for training."""
    listed, names = set(val), known.reader.names
    if train is None:
        train = [i for i in range(len(names)) if i not in listed]
        if not train:
            raise DataError(
                f"data.val_list={data.val_list} lists every video, expected some left for training"
            )
        return Videos(known, train), Videos(known, val)
    shared = [names[i] for i in train if i in listed]
    if shared:
        rank_zero_warn(
            f"{counted(len(shared), 'video is', 'videos are')} listed for both training and"
            f" validation ({name_some(shared)}): val/* does not measure unseen videos"
        )
    return Videos(known, train), Videos(known, val)


def _split_by_fraction(
    known: KnownVideos, listed: Optional[list[int]], data: DataConfig
) -> tuple[Videos, Videos]:
    """Keep the last of the videos, by name, for validation; a single one serves both.

    Where that leaves training or validation without a clip, the last of those are kept that clips
    can be cut from. Training skips what it is left with and cannot use, with a warning.
    """
    names = known.reader.names
    videos = list(range(len(names))) if listed is None else listed
    videos = sorted(videos, key=lambda i: names[i])
    if len(videos) == 1:
        return _serving_both(known, videos, videos[0], "the data set has only one video")
    val = _last_annotated(known, videos, _share(len(videos), data))
    train = _without(videos, val)
    if not (
        _some_can_be_cut(known, train, data, True) and _some_can_be_cut(known, val, data, False)
    ):
        trains, validates = (
            [i for i in videos if can_be_cut(known, i, data, training)]
            for training in (True, False)
        )
        if len(trains) == 1 and trains == validates:
            return _serving_both(known, videos, trains[0], "only one video can be used")
        num_val = _share(len({*trains, *validates}), data)
        # where none is left `find_clips` says why
        val = _without(validates, trains[:1])[-num_val:] or val
        train = _without(videos, val)
    return Videos(known, train), Videos(known, val)


def _without(videos: list[int], others: list[int]) -> list[int]:
    left_out = set(others)
    return [i for i in videos if i not in left_out]


def _last_annotated(known: KnownVideos, videos: list[int], number: int) -> list[int]:
    """Return the last videos that have masks; where none has any, the last ones."""
    annotated = (i for i in reversed(videos) if _has_masks(known, i))
    return list(itertools.islice(annotated, number))[::-1] or videos[-number:]


def _has_masks(known: KnownVideos, i: int) -> bool:
    try:
        known.num_frames(i)
    except NoAnnotatedFrameError:
        return False
    return True


def _some_can_be_cut(
    known: KnownVideos, videos: list[int], data: DataConfig, training: bool
) -> bool:
    return any(can_be_cut(known, i, data, training) for i in videos)


def _share(num_videos: int, data: DataConfig) -> int:
    return min(max(1, round(data.val_fraction * num_videos)), max(1, num_videos - 1))


def _serving_both(known: KnownVideos, train: list[int], i: int, why: str) -> tuple[Videos, Videos]:
    rank_zero_warn(
        f"{why}, {known.reader.names[i]!r}: it is used for both training and validation, so val/*"
        " says nothing about other videos"
    )
    return Videos(known, train), Videos(known, [i])


def _read_list(path: str, field: str, reader: Reader, data: DataConfig) -> list[int]:
    """Return the indices of the videos that a list file names."""
    setting = f"data.{field}={path}"
    index = _by_name(reader.names)
    videos, missing = [], []
    for name in _read_names(path, setting, data):
        # as in official lists an extension may follow, but a name may have a dot of its own
        stem = name if name in index else name.removesuffix(Path(name).suffix)
        if stem in index:
            videos.append(index[stem])
        else:
            missing.append(name)
    if missing:
        raise DataError(
            f"{setting} lists {counted(len(missing), 'video')} that the data set does not have"
            f" ({name_some(missing)}), expected one video name per line"
        )
    return list(dict.fromkeys(videos))


def _by_name(names: list[str]) -> dict[str, int]:
    """Return {name: index}, also by the last part of a path that only one video has.

    Official lists of SA-V name the video ``sav_000/sav_000001`` without its folder.
    """
    lasts = [name.rpartition("/")[2] for name in names]
    counts = Counter(lasts)
    short = {last: i for i, last in enumerate(lasts) if counts[last] == 1}
    return short | {name: i for i, name in enumerate(names)}


def _read_names(path: str, setting: str, data: DataConfig) -> list[str]:
    """Return the lines of a list file, which may lie below ``data.root``, each of them once."""
    found = Path(path)
    if data.root is not None and not (exists(found) and found.is_file()):
        found = Path(data.root) / path
    check_is_file(found, setting, "a text file of video names")
    try:
        lines = found.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{setting} cannot be read ({error}), expected a text file of video names"
        ) from error
    # programs on Windows begin a file with a byte order mark, and lists are put together from files
    lines = [line.strip().strip("\ufeff").strip().rstrip("/") for line in lines]
    names = dict.fromkeys(line for line in lines if line)
    if not names:
        raise DataError(f"{setting} is empty, expected one video name per line")
    return list(names)
