"""The run book of one run: what is stored, what is removed again, and when its page is written."""

import dataclasses
import importlib
import importlib.metadata
import itertools
import logging
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .. import files
from ..config import VisualizationsConfig
from ..metrics.doctor import Baseline, Diagnosis
from ..metrics.outcomes import Findings
from . import store
from .cadence import TRAIN
from .clip import Clip
from .outcome_record import outcomes_record
from .record import (
    PINNED,
    PROMPTS,
    VAL,
    WORST,
    FrameRecord,
    clip_key,
    encode_frames,
    encode_gt,
    event_record,
    frame_ious,
    frame_records,
    object_summaries,
    objects_of,
    painting_order,
)

log = logging.getLogger(__name__)

# What is removed first when the folder is too large; what is not named here goes before all.
_KEPT_LONGEST = (PROMPTS, VAL, WORST, PINNED)
# Of so many clips it is remembered what is stored; of others it is read again.
_MAX_KNOWN_CLIPS = 256
_PACKAGES = ("torch", "lightning", "sam2", "numpy", "swanlab", "wandb")


@dataclass
class _Kept:
    """An event that lies in the folder."""

    path: Path
    kind: str
    step: int
    key: str


@dataclass
class _Known:
    """What is stored of a clip."""

    frames: dict[int, FrameRecord] = field(default_factory=dict)
    pieces: list[Path] = field(default_factory=list)


class RunBook:
    """Stores what is drawn in a run, and writes its page; for one thread.

    Nothing is touched before something is stored. Its methods raise OSError where the disk does,
    and `store.NotABook` where the folder is another run's: that one stays as it is.

    Args:
        run_dir: Where ``pictures/`` and ``run.html`` go.
        max_mb: How large ``pictures/`` may be; may be changed.
        continues: The folder of the book to go on with, where a checkpoint of its run is resumed.
        write_page: Writes the page of a run directory.
    """

    def __init__(
        self,
        run_dir: Path,
        max_mb: float = 200,
        continues: Optional[Path] = None,
        write_page: Optional[Callable[[Path], None]] = None,
    ) -> None:
        self.run_dir = run_dir
        self.folder = run_dir / store.FOLDER
        self.max_mb = max_mb
        self._continues = continues
        self._write_page = write_page or _write_page
        self._start = 0  # which start of the run this is; 0: the folder was not looked at
        self._begins_start = True
        self._num_written = 0
        self._size = 0
        self._known: dict[str, _Known] = {}
        self._kept: list[_Kept] = []
        self._thinned: dict[str, int] = {}
        self._baseline_step: Optional[int] = None
        self._baselines: dict[str, dict[int, list[Optional[float]]]] = {}
        self._has_news = self._has_ended = self._has_baseline = False

    def begin_start(self) -> None:
        """Have what is stored next begin a new start of the run, which does steps again."""
        self._begins_start = True

    def add(self, clip: Clip, kind: str) -> Optional[np.ndarray]:
        """Store one clip of an event.

        Args:
            clip: Of any number of frames.
            kind: ``pinned``, ``val``, ``worst``, ``train``, or ``prompts``: a pinned clip under
                another type of prompts.

        Returns:
            The IoUs of the same frames and objects at the run's first validation, [T, C], NaN where
            there is none; None where that validation is this one or had no such clip.
        """
        step = clip.moment.step if clip.moment else 0
        self._open(step)
        records = frame_records(clip)
        key = self._key_of(clip, kind, records)
        gt = self._store_frames(key, clip, records)
        ious = frame_ious(clip)
        header = {
            "key": key,
            "kind": kind,
            "name": clip.name,
            "stage": clip.moment.stage if clip.moment else "",
            "step": step,
            "time": _now(),
            "numbers": [record.number for record in records],
            "objects": objects_of(clip),
            "height": clip.images.shape[1],
            "width": clip.images.shape[2],
            "ious": ious,
            "summaries": object_summaries(clip),
        }
        self._num_written += 1
        path = store.event_path(self.folder, kind, self._start, step, self._num_written)
        self._size += store.write(path, header, files.as_json(event_record(clip, gt)))
        self._kept.append(_Kept(path, kind, step, key))
        self._has_news = True
        baseline = self._baseline_of(clip, kind, key, records, ious)
        if kind == TRAIN:
            del self._known[key]  # it is never seen again
        self._thin()
        return baseline

    def add_curves(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append to the curves; see `store.append_curves`."""
        if lines:
            self._open(lines[0]["step"])
            self._size += store.append_curves(self.folder, lines)
            self._has_news = True

    def add_table(self, path: Path, step: int) -> None:
        """Keep the metrics of all objects of a validation, where somebody has written them.

        Those of the first validation stay beside them, as long as the run is.
        """
        if path.is_file():
            self._open(step)
            self._store_table(path.read_bytes(), step)
            self._has_news = True

    def add_baseline(self, baseline: Baseline, step: int) -> None:
        """Keep the run's first validation, where an earlier start made it and its book is gone.

        Args:
            baseline: That validation.
            step: Of the validation after which it is kept.
        """
        self._open(step)
        if self._has_baseline or baseline.step in store.list_folder(self.folder).tables:
            self._has_baseline = True
            return
        self._store_table(baseline.table.encode("utf-8", "backslashreplace"), baseline.step)
        self.add_curves(
            [{"step": baseline.step, "values": {"val/iou": store.rounded(baseline.iou, 6)}}]
        )

    def add_diagnoses(self, diagnoses: Sequence[Diagnosis], step: int) -> None:
        """Keep what was wrong at each validation, in the place of what was kept of it before.

        Args:
            diagnoses: Of the validations at which something was, up to that of `step`.
            step: Of the last validation.
        """
        self._open(step)
        store.write_diagnoses(self.folder, [dataclasses.asdict(each) for each in diagnoses])
        self._has_news = True

    def add_outcomes(self, findings: Findings, step: int) -> None:
        """Keep what became of the objects of a validation, in the place of the one before."""
        self._open(step)
        target = store.outcomes_path(self.folder, self._start, step)
        body = files.as_json(outcomes_record(findings))
        before = _size_of(target)
        self._size += store.write(target, {"step": step}, body) - before
        self._discard(path for path in store.outcomes_paths(self.folder) if path != target)
        self._has_news = True

    def write_page(self, *, at_the_end: bool = False) -> None:
        """Write ``run.html`` anew where anything was stored since it was written.

        Args:
            at_the_end: The run ends here, as far as anybody knows.
        """
        ends = at_the_end and self._start > 0 and not self._has_ended
        if self._has_news or ends:
            if at_the_end:
                store.append_curves(self.folder, [{"end": _now()}])
            self._write_page(self.run_dir)
            self._has_news, self._has_ended = False, at_the_end

    def _open(self, step: int) -> None:
        """Make sure that the folder is there and this run's own."""
        if not self._begins_start and store.is_book(self.folder):
            return
        self._check_free()
        old = self._book_to_go_on_with()
        if old and not store.is_book(self.folder):
            store.carry_over(old, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        store.remove_partial_files(self.folder)
        start = store.last_start(self.folder) + 1
        content = {
            "format": store.FORMAT,
            "start": start,
            "step": step,
            "time": _now(),
            "versions": _versions(),
        }
        # The start comes last, for it makes the folder this run's; what fails is begun again.
        store.append_curves(self.folder, [{"start": step}])
        path = store.start_path(self.folder, start)
        files.replace_whole(path, files.as_json(content).encode())
        self._start = start
        self._remember_what_is_stored()
        self._begins_start = False

    def _book_to_go_on_with(self) -> Optional[Path]:
        return self._continues if self._continues and store.is_book(self._continues) else None

    def _check_free(self) -> None:
        """Raise `store.NotABook` where the folder is that of another run, or of something else."""
        folder, old = self.folder, self._book_to_go_on_with()
        is_own = self._start or (old and old.resolve() == folder.resolve())
        if (is_own and store.is_book(folder)) or store.is_unbegun(folder, old):
            return
        whose = "another run's pictures" if store.is_book(folder) else "other files"
        raise store.NotABook(
            f"the folder {store.FOLDER} of {self.run_dir.absolute().name} holds {whose}"
        )

    def _remember_what_is_stored(self) -> None:
        """Learn what the folder holds, of an earlier start of the run where there was one."""
        found = store.list_folder(self.folder)
        self._has_baseline = False
        self._size, self._thinned = found.size, store.read_thinned(self.folder)
        self._known, self._kept, self._baselines, self._baseline_step = {}, [], {}, None
        for event in found.events:
            header = _header_of(event.path)
            if header:
                kept = _Kept(event.path, header["kind"], event.step, header["key"])
                self._kept.append(kept)
                by_number = dict(zip(header["numbers"], header["ious"], strict=False))
                self._note_baseline(kept, by_number)

    def _key_of(self, clip: Clip, kind: str, records: Sequence[FrameRecord]) -> str:
        """Return the clip's name, or one with a number where another clip has that already."""
        name = clip_key(clip, kind)
        names = itertools.chain([name], (f"{name}.{count}" for count in itertools.count(2)))
        return next(key for key in names if self._can_be(key, kind, records))

    def _can_be(self, key: str, kind: str, records: Sequence[FrameRecord]) -> bool:
        """Return whether a clip of these frames can go by a key: no other clip has it."""
        known = self._recall(key)
        return not known.pieces or (kind != TRAIN and _is_same(known, records))

    def _recall(self, key: str) -> _Known:
        """Return what is stored of a clip, which is nothing for a new one."""
        known = self._known.pop(key, None) or self._read_known(key)
        self._known[key] = known  # behind those that were asked for earlier
        if len(self._known) > _MAX_KNOWN_CLIPS:
            del self._known[next(iter(self._known))]
        return known

    def _read_known(self, key: str) -> _Known:
        known = _Known(pieces=store.clip_paths(self.folder, key))
        for path in known.pieces:
            for item in _header_of(path).get("frames", ()):
                record = FrameRecord(**item)
                known.frames[record.number] = record
        return known

    def _store_table(self, content: bytes, step: int) -> None:
        """Store the metrics of all objects, and remove those between the first and the last."""
        target = store.table_path(self.folder, self._start, step)
        before = _size_of(target)
        self._size += files.replace_whole(target, content) - before
        kept = store.list_folder(self.folder).tables
        ends = {kept[min(kept)], kept[max(kept)]}
        self._discard(path for path in store.table_paths(self.folder) if path not in ends)

    def _store_frames(
        self, key: str, clip: Clip, records: Sequence[FrameRecord]
    ) -> Optional[list[Optional[list[str]]]]:
        """Store those frames that are not; return the ground truth where it is another by now."""
        known = self._known[key]
        if not all(path.is_file() for path in known.pieces):
            known.frames.clear()
        new = [i for i, record in enumerate(records) if record.number not in known.frames]
        if new:
            images = encode_frames([clip.images[i] for i in new])
            body = [
                {"number": records[i].number, "gt": encode_gt(clip, i), "image": image}
                for i, image in zip(new, images, strict=True)
            ]
            path = store.clip_path(self.folder, key, len(known.pieces) + 1)
            header = {"frames": [vars(records[i]) for i in new]}
            self._size += store.write(path, header, files.as_json(body))
            known.pieces.append(path)
            known.frames |= {records[i].number: records[i] for i in new}
        if all(record.gt_sum == known.frames[record.number].gt_sum for record in records):
            return None
        return [encode_gt(clip, index) for index in range(len(records))]

    def _baseline_of(
        self,
        clip: Clip,
        kind: str,
        key: str,
        records: Sequence[FrameRecord],
        ious: Sequence[list[Optional[float]]],
    ) -> Optional[np.ndarray]:
        numbers = [record.number for record in records]
        self._note_baseline(self._kept[-1], dict(zip(numbers, ious, strict=False)))
        first = self._baselines.get(key)
        if kind == TRAIN or first is None or self._kept[-1].step == self._baseline_step:
            return None
        before = np.full((len(numbers), clip.num_categories), math.nan)
        for index, frame_number in enumerate(numbers):
            for k, iou in zip(painting_order(clip), first.get(frame_number, ()), strict=False):
                before[index, k] = math.nan if iou is None else iou
        return before

    def _note_baseline(self, kept: _Kept, by_number: dict[int, list[Optional[float]]]) -> None:
        """Keep the IoUs of the first validation."""
        if kept.kind == TRAIN:
            return
        if self._baseline_step is None:
            self._baseline_step = kept.step
        if kept.step == self._baseline_step:
            self._baselines.setdefault(kept.key, by_number)

    def _thin(self) -> None:
        """Remove events until the folder is small enough; of pinned clips the middle ones, last."""
        removed = False
        while self._size > self.max_mb * 2**20:
            victims = self._next_to_remove()
            if not victims:
                break
            for kept in victims:
                self._remove(kept)
            removed = True
        if removed:
            store.write_thinned(self.folder, self._thinned)

    def _next_to_remove(self) -> list[_Kept]:
        kinds = {kept.kind for kept in self._kept}
        for kind in sorted(kinds, key=lambda kind: (kind in _KEPT_LONGEST, _rank(kind))):
            steps = sorted({kept.step for kept in self._kept if kept.kind == kind})
            step = _least_missed(steps, keep_ends=kind in _KEPT_LONGEST)
            if step is not None:
                return [kept for kept in self._kept if kept.kind == kind and kept.step == step]
        return []

    def _remove(self, kept: _Kept) -> None:
        self._kept.remove(kept)
        self._thinned[kept.kind] = self._thinned.get(kept.kind, 0) + 1
        paths = [kept.path]
        if all(other.key != kept.key for other in self._kept):
            self._known.pop(kept.key, None)
            paths += store.clip_paths(self.folder, kept.key)
        self._discard(path for path in paths if path.is_file())

    def _discard(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._size -= path.stat().st_size
            path.unlink()


def open_book(config: VisualizationsConfig, trainer: Any) -> Optional[RunBook]:
    """Return the book of a run that begins, None where it has none.

    Args:
        config: Section of the configuration.
        trainer: Lightning's; of one that resumes a checkpoint the book of that run goes on.
    """
    if not config.run_book or getattr(trainer, "fast_dev_run", False):
        return None
    run_dir = run_dir_of(config, trainer.loggers)
    if run_dir is None:
        log.info(
            "visualizations: no run book is kept: no logger has a log_dir of its own; "
            "visualizations.run_dir=DIR names a folder for it"
        )
        return None
    checkpoint = getattr(trainer, "ckpt_path", None)
    resumed = own_book_of(Path(checkpoint)) if checkpoint and is_fitting(trainer) else None
    return RunBook(run_dir, config.run_book_mb, resumed)


def is_fitting(trainer: Any) -> bool:
    """Return whether a trainer of Lightning's, or something like it, runs `fit`."""
    return getattr(getattr(trainer, "state", None), "fn", None) == "fit"


def run_dir_of(config: VisualizationsConfig, loggers: Sequence[Any]) -> Optional[Path]:
    """Return where the run book goes: the setting, or the first logger's folder that there is.

    The working directory, which SwanLab's own logger names, is no folder of a run.
    """
    if config.run_dir:
        return Path(config.run_dir).absolute()
    named = [getattr(logger, "log_dir", None) for logger in loggers]
    folders = [Path(path).absolute() for path in named if path]
    return next((folder for folder in folders if folder != Path.cwd()), None)


def own_book_of(checkpoint: Path) -> Optional[Path]:
    """Return the folder of the book whose run wrote a checkpoint, None where there is none."""
    for parent in list(checkpoint.absolute().parents)[:4]:
        if store.is_book(parent / store.FOLDER):
            return parent / store.FOLDER
    return None


def _is_same(known: _Known, records: Sequence[FrameRecord]) -> bool:
    common = [record for record in records if record.number in known.frames]
    return bool(common) and all(
        record.shows_the_same_as(known.frames[record.number]) for record in common
    )


def _header_of(path: Path) -> dict[str, Any]:
    """Return a file's header, an empty one where it cannot be read."""
    try:
        return store.read(path, header_only=True).header
    except (store.NotABook, OSError):
        return {}


def _size_of(path: Path) -> int:
    """Return how many bytes a file has; of one that is not there 0."""
    return path.stat().st_size if path.is_file() else 0


def _rank(kind: str) -> int:
    return _KEPT_LONGEST.index(kind) if kind in _KEPT_LONGEST else 0


def _least_missed(steps: Sequence[int], *, keep_ends: bool) -> Optional[int]:
    """Return the step that leaves the smallest gap; the first and the last go last, or never."""
    if len(steps) > 2:
        gaps = [steps[i + 1] - steps[i - 1] for i in range(1, len(steps) - 1)]
        return steps[1 + gaps.index(min(gaps))]
    return None if keep_ends or len(steps) < 2 else steps[0]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> list[list[str]]:
    versions = [["python", platform.python_version()]]
    for name in _PACKAGES:
        try:
            versions.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _write_page(run_dir: Path) -> None:
    """Have the report write a run's page.

    It reads what is stored here, so it is looked up by name: nothing here depends on it.
    """
    package = (__package__ or "").rpartition(".")[0]
    importlib.import_module(f"{package}.report").write_page(run_dir)
