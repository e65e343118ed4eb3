"""``python -m core.data DATA_ARGS``: look through a data set before training on it.

Takes the Hydra overrides of ``train.py``. Reads the masks of both splits, all of them where a
minute is enough and with ``--all``, prints what is there, and writes one sheet of ground truth and
prompts per sampled clip and ``index.html``, which shows what is unusual.
"""

import contextlib
import dataclasses
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import cv2
import numpy as np
import torch
from hydra.errors import HydraException
from PIL import Image
from tqdm import tqdm
from training.utils.data_utils import BatchedVideoDatapoint, VideoDatapoint

from ..checks import UserError
from ..config import Config, register_schema, sources_of, to_config
from ..files import replace_whole
from ..overrides import compose_command_line, print_anything
from ..words import counted
from .clips import ClipDataset
from .datapoint import collate, seed_of_source
from .health.collect import Collection
from .health.problems import KINDS, rank
from .health.scan import Amount, VideoScan, plan_amount, scan
from .module import VideoDataModule
from .readers.recognise import naming_source, resolve_source
from .readers.remarks import Remark, in_lines
from .sources import MixedDataset
from .synthetic import SyntheticDataset

OUTPUT_DIR = Path("outputs/data_check")
PAGE = "index.html"
_ALL = "--all"
# What finding the clips and reading masks may take together, where not all are asked for: with the
# rest, importing, comparing and drawing, it makes a minute.
_SECONDS, _FEWEST_SECONDS = 36.0, 10.0
SHEETS_PER_SPLIT = 4
# three panels make a sheet of the width that the sheet draws by itself
_PANEL_SIZE = 384
# drawn clips have no end: so many are looked at
_SYNTHETIC_CLIPS = 16
_EVERYTHING = Amount()
# of the sheets on the page; the files keep every pixel
_JPEG_QUALITY = 88


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        videos: Videos that clips are cut from.
        clips: Clips per epoch.
        frames: Annotated frames of these videos.
        read: Those of them whose masks were read; what follows is about these.
        objects: Objects (category layout: categories) that are seen, summed over the videos.
        late_objects: Those of them that are not there on the first annotated frame.
        keeps_slots: Whether clips have a slot for each category, also for absent ones.
        empty_frames: Annotated frames without any object.
        unmatched_frames: Frames without a mask, which are left out.
        unmatched_masks: Masks without a frame.
        sizes: Frame sizes (width, height) and in how many frames they occur.
        remarks: What should be known of files that can be read.
    """

    videos: int = 0
    clips: int = 0
    frames: int = 0
    read: int = 0
    objects: int = 0
    late_objects: int = 0
    keeps_slots: bool = False
    empty_frames: int = 0
    unmatched_frames: int = 0
    unmatched_masks: int = 0
    sizes: Counter = field(default_factory=Counter)
    remarks: list[Remark] = field(default_factory=list)

    def __str__(self) -> str:
        """Describe the split in one line."""
        sizes = ", ".join(f"{w} x {h} ({n})" for (w, h), n in self.sizes.most_common(5))
        kind = "categories, summed over videos" if self.keeps_slots else "objects"
        read = f", {self.read} of them read" if self.read < self.frames else ""
        text = (
            f"{counted(self.videos, 'video')}, {counted(self.clips, 'clip')} per epoch,"
            f" {counted(self.frames, 'annotated frame')}"
            f"{read} ({self.empty_frames} empty), {self.objects} {kind}, frame sizes: {sizes}"
        )
        late = (
            "categories are absent on the first frame of their video; a clip keeps a slot for every"
            " category all the same, empty where it is absent"
            if self.keeps_slots
            else "objects are absent on the first frame of their video; a clip contains only the"
            " objects of its own first frame"
        )
        notes = {
            "frames without a mask are left out": self.unmatched_frames,
            "masks have no frame": self.unmatched_masks,
            late: self.late_objects,
        }
        lines = [f"{count} {note}" for note, count in notes.items() if count]
        return "\n  ".join([text, *lines, *in_lines(self.remarks)])


def check_split(
    dataset: SyntheticDataset | ClipDataset | MixedDataset,
    description: str,
    amount: Amount = _EVERYTHING,
    visit: Callable[[VideoScan], None] = lambda found: None,
) -> SplitReport:
    """Read the annotated frames of a split, with a progress bar.

    Args:
        dataset: The split of one data set.
        description: The progress bar's label.
        amount: How many of them.
        visit: Is given what was found in each video.

    Raises:
        DataError: A file is not usable.
    """
    assert not isinstance(dataset, MixedDataset)  # several are checked one by one
    report = SplitReport(clips=len(dataset))
    if isinstance(dataset, SyntheticDataset):
        report.videos = len(dataset)
        for index in tqdm(
            range(min(len(dataset), _SYNTHETIC_CLIPS)), desc=description, disable=None
        ):
            _count_drawn(dataset[index], report)
        return report
    report.videos = len(dataset.sources)
    report.keeps_slots = dataset.reader.num_categories is not None
    for found in scan(dataset, amount, description):
        _count_video(found, report)
        visit(found)
    return report


def _count_video(found: VideoScan, report: SplitReport) -> None:
    seen, places = (set(found.rows[name].tolist()) for name in ("object", "place"))
    at_first = set(found.rows["object"][found.rows["place"] == 0].tolist())
    report.frames += found.num_frames
    report.read += len(found.places)
    report.sizes.update(found.sizes)
    report.remarks += [remark for _, remark in found.remarks]
    report.empty_frames += len(found.places) - len(places)
    report.objects += len(seen)
    report.late_objects += len(seen - at_first)
    frames_without_mask, masks_without_frame = found.unmatched
    report.unmatched_frames += frames_without_mask
    report.unmatched_masks += masks_without_frame


def _count_drawn(clip: VideoDatapoint, report: SplitReport) -> None:
    report.frames += len(clip.frames)
    report.read += len(clip.frames)
    report.sizes[clip.size[::-1]] += len(clip.frames)
    report.objects += len(clip.frames[0].objects)
    report.empty_frames += sum(
        not any(item.segment.any() for item in frame.objects) for frame in clip.frames
    )


def draw_sheet(
    batch: BatchedVideoDatapoint, header: str, prompt_type: str, names: Sequence[str]
) -> np.ndarray:
    """Draw one clip's frames with ground truth and the prompts of its first frame.

    Args:
        batch: A batch of one clip.
        header: Written above the first row.
        prompt_type: ``point``, ``bbox`` or ``mask``.
        names: What the legend calls the mask slots to draw.

    Returns:
        uint8 [h, w, 3], one row per frame: image, ground truth, prompts.
    """
    # the renderer brings matplotlib, which reading data does not need
    from ..visualization.clip import Clip, ClipFrame, Masks, plain_text
    from ..visualization.drawing.sheet import PANELS, render_sheet
    from ..visualization.prompts import implied_prompts
    from ..visualization.reduction import (
        Choice,
        Grid,
        OnCpu,
        denormalize_array,
        reduce_masks,
    )

    num_frames, num_slots, height, width = batch.masks.shape
    positions = list(range(num_frames))
    original = tuple(batch.metadata.frame_orig_size[0, 0].tolist())
    grid = Grid.fit(height, width, _PANEL_SIZE, original)
    reduction = OnCpu(Choice([0], positions, positions, positions, [grid]), list(range(num_slots)))
    images = denormalize_array(reduction.images(batch.img_batch)[0])
    masks = reduce_masks(batch.masks.numpy(), grid)
    numbers = batch.metadata.unique_objects_identifier[:, 0, 2].tolist()
    frames = [ClipFrame(t, number) for t, number in enumerate(numbers)]
    frames[0].prompted, frames[0].prompts = (
        True,
        implied_prompts(torch.from_numpy(masks[0]), prompt_type),
    )
    clip = Clip(
        name=header,
        frames=frames,
        images=np.ascontiguousarray(images.transpose(0, 2, 3, 1)),
        model_size=grid.size,
        ids=batch.metadata.unique_objects_identifier[0, :, 1].tolist(),
        gt=Masks(masks, batch.masks.sum((2, 3)).numpy()),
        pred=None,
        category_names=[plain_text(name) for name in names],
    )
    panels = PANELS[: PANELS.index("prompts") + 1]
    return render_sheet(clip, panel_size=_PANEL_SIZE, panels=panels)


def _slot_names(module: VideoDataModule, stage: str, batch: BatchedVideoDatapoint) -> list[str]:
    video, ids = batch.metadata.unique_objects_identifier[0, :, :2].T.tolist()
    known = module.object_names(stage, video[0]) or {}
    return [known.get(key, "") for key in ids]


def check_data(
    config: Config, output_dir: Path = OUTPUT_DIR, read_all: bool = False
) -> dict[str, SplitReport]:
    """Look through both splits, print what they hold and write the sheets and the page.

    Args:
        config: The whole configuration; `data`, `model.image_size`, `model.prompt_type` and `seed`
            are read.
        output_dir: Where the sheets and the page go.
        read_all: Read every mask, however long it takes.

    Returns:
        The report of ``train`` and of ``val``; of several data sets of ``<name>/train`` and so on.

    Raises:
        DataError: The data set is not usable.
    """
    start = time.monotonic()
    data = resolve_source(config.data, print)
    if sources_of(data):
        return _check_sources(dataclasses.replace(config, data=data), output_dir, read_all)
    module = VideoDataModule(data, config.model.image_size, config.seed)
    module.setup()
    collection = Collection(config.model.image_size, module.category_layout)
    seconds = max(_FEWEST_SECONDS, _SECONDS - (time.monotonic() - start))
    reports = _check_splits(module, collection, read_all, seconds)
    lines = [f"{stage}: {report}" for stage, report in reports.items()]
    if module.category_names is not None:
        lines.append(f"{module.num_categories} category slots: {', '.join(module.category_names)}")
    lines.append(_amount_in_words(collection))
    print(*lines, sep="\n")

    output_dir.mkdir(parents=True, exist_ok=True)
    for stage in module.datasets:
        for stale in output_dir.glob(f"{stage}_[0-9]*.png"):
            stale.unlink()  # of an earlier check, of another data set perhaps
    sheets = _write_sheets(module, config.model.prompt_type, output_dir)
    print(f"sheets of ground truth and prompts are in {output_dir}/")
    # of several data sets each has a name
    _write_page(getattr(data, "name", data.source), lines, collection, sheets, output_dir / PAGE)
    return reports


def _check_splits(
    module: VideoDataModule, collection: Collection, read_all: bool, seconds: float
) -> dict[str, SplitReport]:
    read = [data for data in module.datasets.values() if isinstance(data, ClipDataset)]
    amount = plan_amount(read, read_all, seconds) if read else _EVERYTHING
    reports = {}
    for stage, dataset in module.datasets.items():
        if isinstance(dataset, ClipDataset):
            visit = collection.open(stage, dataset.reader, dataset.training)
            reports[stage] = check_split(dataset, stage, amount, visit)
        else:
            reports[stage] = check_split(dataset, stage)
    return reports


def _amount_in_words(collection: Collection) -> str:
    splits = collection.splits.values()
    if not splits:
        return "drawn clips have no files to look through"
    read, masks, decoded = (
        sum(getattr(split, name) for split in splits) for name in ("masks_read", "masks", "decoded")
    )
    more = "; --all reads every mask" if read < masks else ""
    return f"read {read} of {masks} masks and decoded {decoded} of {masks} frames{more}"


def _write_sheets(
    module: VideoDataModule, prompt_type: str, output_dir: Path
) -> list[tuple[str, np.ndarray]]:
    """Write the sheets, and return what each shows with its pixels."""
    prompt_type = "mask" if prompt_type == "mixed" else prompt_type
    sheets = []
    for stage, dataset in module.datasets.items():
        for index in range(min(len(dataset), SHEETS_PER_SPLIT)):
            batch = collate([dataset[index]])
            module.normalise(batch)
            video_id = int(batch.metadata.unique_objects_identifier[0, 0, 0])
            name = module.clip_name(stage, video_id)
            implied = f"{prompt_type} prompts implied by the first frame's ground truth"
            header = f"{stage} · {name} · {implied}"
            sheet = draw_sheet(batch, header, prompt_type, _slot_names(module, stage, batch))
            path = output_dir / f"{stage}_{index}_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:80]}.png"
            Image.fromarray(sheet).save(path)
            seen = "augmented, as in training" if stage == "train" else "as in validation"
            sheets.append((f"{stage} · {name}: {seen}", sheet))
    return sheets


def _write_page(
    name: str,
    lines: Sequence[str],
    collection: Collection,
    sheets: Sequence[tuple[str, np.ndarray]],
    path: Path,
) -> None:
    # it brings matplotlib, see `draw_sheet`
    from .health.page import Sheet, build_page

    problems = rank(collection.findings(), collection.num_videos)
    for kind, found in problems:
        num_videos = len({item.video for item in found})
        print(f"{KINDS[kind].title}: {len(found)} in {counted(num_videos, 'video')}")
    shown = [Sheet(text, _as_jpeg(sheet)) for text, sheet in sheets]
    page = build_page(f"Data check · {name}", lines, collection, problems, shown)
    replace_whole(path, page.encode())
    print(f"{'problems' if problems else 'nothing unusual'}, with pictures: {path}")


def _as_jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return data.tobytes()


def _check_sources(config: Config, output_dir: Path, read_all: bool) -> dict[str, SplitReport]:
    """Look through each of several data sets; its sheets and page go into a folder of its name."""
    VideoDataModule(config.data, config.model.image_size, config.seed)  # refuses mixed layouts
    reports: dict[str, SplitReport] = {}
    for i, source in enumerate(sources_of(config.data)):
        name = str(source.name)
        print(f"{name}:")
        own = dataclasses.replace(config, data=source)
        own.seed = seed_of_source(config.seed, i)
        with naming_source(i):
            found = check_data(own, output_dir / name, read_all)
        reports |= {f"{name}/{stage}": report for stage, report in found.items()}
    return reports


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Write warnings without the line of code that they come from."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_args, **_more: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def main(overrides: Optional[list[str]] = None) -> None:
    """Run the check; ends the process with status 1 and one sentence when the data is not usable.

    Args:
        overrides: Hydra overrides, and ``--all`` perhaps; None: the command line's.
    """
    print_anything()
    register_schema()
    given = sys.argv[1:] if overrides is None else overrides
    overrides = [argument for argument in given if argument != _ALL]
    if {"-h", "--help"} & set(overrides):
        print(f"{__doc__}\nExample: python -m core.data --all data=vos_folder data.root=DIR")
        return
    try:
        config = to_config(compose_command_line(overrides)[0])
        with _warnings_in_one_line():
            check_data(config, read_all=_ALL in given)
    except (
        UserError,
        HydraException,
        OSError,
    ) as error:  # the latter where no sheet can be written
        sys.exit(f"error: {error}")
