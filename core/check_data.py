"""``python -m core.data DATA_ARGS``: look through a data set before training on it.

Takes the Hydra overrides of ``train.py``. Reads every annotated frame of both splits, prints what
is there, and writes one sheet of ground truth and prompts per sampled clip.
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from tqdm import tqdm
from training.utils.data_utils import BatchedVideoDatapoint, VideoDatapoint, collate_fn

from core.clips import ClipDataset, SyntheticDataset
from core.config import CONFIG_DIR, Config, explain_typos, register_schema, to_config
from core.data import VideoDataModule
from core.datasets import DataError

OUTPUT_DIR = Path("outputs/data_check")
SHEETS_PER_SPLIT = 4
# drawn clips have no end: so many are looked at
_SYNTHETIC_CLIPS = 16


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        videos: Videos that clips are cut from.
        clips: Clips per epoch.
        frames: Annotated frames of these videos.
        objects: Objects (category layout: categories) that are seen, summed over the videos.
        empty_frames: Annotated frames without any object.
        sizes: Frame sizes (width, height) and in how many frames they occur.
    """

    videos: int = 0
    clips: int = 0
    frames: int = 0
    objects: int = 0
    empty_frames: int = 0
    sizes: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        """Describe the split in one line."""
        sizes = ", ".join(f"{w} x {h} ({n})" for (w, h), n in self.sizes.most_common(5))
        return (
            f"{self.videos} videos, {self.clips} clips per epoch, {self.frames} annotated frames"
            f" ({self.empty_frames} empty), {self.objects} objects, frame sizes: {sizes}"
        )


def check_split(dataset: SyntheticDataset | ClipDataset, description: str) -> SplitReport:
    """Read every annotated frame of a split, with a progress bar.

    Args:
        dataset: The split.
        description: The progress bar's label.

    Raises:
        DataError: A file is not usable.
    """
    report = SplitReport(clips=len(dataset))
    if isinstance(dataset, SyntheticDataset):
        report.videos = len(dataset)
        for index in tqdm(range(min(len(dataset), _SYNTHETIC_CLIPS)), desc=description):
            _count_drawn(dataset[index], report)
        return report
    report.videos = len(dataset.sources)
    reader = dataset.reader
    with tqdm(total=len(dataset.sources), desc=description, unit="video") as progress:
        for source in dataset.sources:
            seen = set()
            for frame in reader.video(source.video).frames:
                image = reader.image(frame)
                report.sizes[image.size] += 1
                masks = reader.masks(source.video, frame)
                present = {key for key, mask in masks.items() if mask.any()}
                report.frames += 1
                report.empty_frames += not present
                seen |= present
            report.objects += len(seen)
            progress.update()
    return report


def _count_drawn(clip: VideoDatapoint, report: SplitReport) -> None:
    report.frames += len(clip.frames)
    report.sizes[clip.size[::-1]] += len(clip.frames)
    report.objects += len(clip.frames[0].objects)
    report.empty_frames += sum(
        not any(item.segment.any() for item in frame.objects) for frame in clip.frames
    )


def draw_sheet(
    batch: BatchedVideoDatapoint, title: str, prompt_type: str, num_categories: Optional[int]
) -> np.ndarray:
    """Draw one clip's frames with ground truth and the prompts of its first frame.

    Args:
        batch: A batch of one clip.
        title: Written above the first row.
        prompt_type: ``point``, ``bbox`` or ``mask``.
        num_categories: Mask slots to draw; None: as many as the clip has objects.

    Returns:
        uint8 [h, w, 3], one row per frame.
    """
    # the renderer brings matplotlib, which reading data does not need
    from core.utils import (
        build_prompts_from_gt_first_frame,
        create_composite_visualization,
        to_category_gt_masks,
        to_video_frames,
    )

    num_categories = num_categories or batch.masks.shape[1]
    frames = to_video_frames(batch, 0)
    masks = to_category_gt_masks(batch, num_categories, 0)
    prompts = build_prompts_from_gt_first_frame(masks, prompt_type)
    numbers = batch.metadata.unique_objects_identifier[:, 0, 2].tolist()
    rows = [
        create_composite_visualization(
            frames[t],
            masks[t],
            None,
            prompts=prompts if t == 0 else None,
            title=f"{title} frame {number}",
            num_categories=num_categories,
        )
        for t, number in enumerate(numbers)
    ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    )


def check_data(config: Config, output_dir: Path = OUTPUT_DIR) -> dict[str, SplitReport]:
    """Look through both splits, print what they hold and write the sheets.

    Args:
        config: The whole configuration; `data`, `model.image_size`, `model.prompt_type` and `seed`
            are read.
        output_dir: Where the sheets go.

    Returns:
        The report of ``train`` and of ``val``.

    Raises:
        DataError: The data set is not usable.
    """
    module = VideoDataModule(config.data, config.model.image_size, config.seed)
    module.setup()
    reports = {stage: check_split(dataset, stage) for stage, dataset in module.datasets.items()}
    for stage, report in reports.items():
        print(f"{stage}: {report}")
    if module.category_layout:
        print(f"{module.num_categories} category slots: {', '.join(module.category_names)}")

    output_dir.mkdir(parents=True, exist_ok=True)
    prompt_type = "mask" if config.model.prompt_type == "mixed" else config.model.prompt_type
    for stage, dataset in module.datasets.items():
        for index in range(min(len(dataset), SHEETS_PER_SPLIT)):
            batch = collate_fn([dataset[index]], dict_key="all")
            name = module.clip_name(stage, index % reports[stage].videos)
            sheet = draw_sheet(batch, f"{stage} {name}", prompt_type, module.num_categories)
            path = output_dir / f"{stage}_{index}_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:80]}.png"
            Image.fromarray(sheet).save(path)
    print(f"sheets of ground truth and prompts: {output_dir}/")
    return reports


def main(overrides: Optional[list[str]] = None) -> None:
    """Run the check; ends the process with status 1 and one sentence when the data is not usable.

    Args:
        overrides: Hydra overrides; None: the command line's.
    """
    register_schema()
    overrides = sys.argv[1:] if overrides is None else overrides
    if {"-h", "--help"} & set(overrides):
        print(f"{__doc__}\nExample: python -m core.data data=vos_folder data.root=DIR")
        return
    explain_typos(overrides)
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = to_config(compose("config", overrides))
        check_data(config)
    except (HydraException, OmegaConfBaseException, DataError, ValueError) as error:
        sys.exit(f"error: {error}")
