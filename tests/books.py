"""Run books to test with: clips as a training makes them, stored by a real `RunBook`; pages."""

import dataclasses
import json

import numpy as np
from scenes import make_scene

from core.files import as_json
from core.report.assemble import book_json
from core.report.page import page_around_book
from core.visualization.book import RunBook
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot


def scene_clip(
    step=0,
    stage="val",
    *,
    num_frames=4,
    size=48,
    kept_frames=4,
    name="a clip",
    shift=0,
    num_categories=None,
):
    """A clip of three discs, whose prediction lies `shift` pixels lower than it does by itself."""
    batch, outs = make_scene(num_frames, size, 3)
    for out in outs:
        out["pred_masks_high_res"] = out["pred_masks_high_res"].roll(shift, -2)
    moment = Moment(stage, step, clip_name=lambda video: name)
    options = SnapshotOptions(
        max_frames=2, panel_size=48, kept_frames=kept_frames, num_categories=num_categories
    )
    return take_snapshot(batch, outs, moment, options).clips()[0]


def another_video(clip, step=None, **fields):
    """The same clip with other frames."""
    moment = clip.moment if step is None else dataclasses.replace(clip.moment, step=step)
    images = np.ascontiguousarray(clip.images[:, ::-1, ::-1])
    return dataclasses.replace(clip, images=images, moment=moment, **fields)


def no_page(run_dir):
    """Stands for the report where no page is looked at."""


def make_book(run_dir, **options):
    return RunBook(run_dir, write_page=no_page, **options)


def read_runs(*run_dirs):
    """What the page of some runs is given."""
    return json.loads("".join(book_json(run_dirs)))["runs"]


def page_of(book):
    """The text of the page that shows a book, which is JSON types alone."""
    before, behind = page_around_book()
    return before + as_json(book) + behind
