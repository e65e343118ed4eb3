"""The public functions together: from a batch to a logged sheet."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import RememberingLogger
from scenes import make_batch

from core import utils
from core.official import import_sam2
from core.visualization import images

import_sam2()


def make_inputs(num_frames=3, size=(32, 48)):
    masks = torch.zeros(num_frames, 3, *size, dtype=torch.bool)
    masks[..., 8:24, 8:24] = True
    batch = make_batch(torch.zeros(num_frames, 2, 3, *size), masks, [0, 0, 1])
    outs = [{"pred_masks_high_res": mask[:, None] * 2.0 - 1} for mask in masks]
    return batch, outs


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (300, 200)])
@pytest.mark.parametrize("num_categories", [1, 2, 13])
def test_viz_utils_shapes(size, num_categories):
    batch, outs = make_inputs(2, size)
    frames = utils.to_video_frames(batch, 0)
    gt = utils.to_category_gt_masks(batch, num_categories, 0)
    preds = utils.extract_category_preds(outs)
    prompts = utils.build_prompts_from_gt_first_frame(gt, "point")
    assert frames.shape == (2, 3, *size)
    assert gt.shape == (2, num_categories, *size)
    assert preds.shape == (2, 3, *size)
    assert len(prompts) == min(2, num_categories)
    image = utils.create_composite_visualization(frames[0], gt[0], preds[0], prompts)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags["C_CONTIGUOUS"]
    assert image.flags["OWNDATA"]


def test_viz_utils_log_one_sheet_per_video_with_a_caption():
    logger = RememberingLogger()
    batch, outs = make_inputs()
    logged = utils.log_training_visualizations(
        logger, batch, outs, stage="train", step=12, max_videos=2
    )
    assert logged is True
    (((key, step), images),) = logger.images.items()
    captions = logger.captions[key, step]
    assert (key, step) == ("train/composites", 12)
    assert len(images) == len(captions) == 2
    assert captions[0] == "train · step 12 · video 0 · mean IoU 1.000 over 3 of 3 frames"


def test_viz_utils_log_what_is_asked_for():
    logger, heights = RememberingLogger(), []
    batch, outs = make_inputs(num_frames=6)
    for max_frames in (1, 3):
        utils.log_training_visualizations(
            logger, batch, outs, stage="val", step=0, max_frames=max_frames, panel_size=64
        )
        heights.append(logger.images["val/composites", 0][0].shape[0])
    low, high = heights
    assert high - low == 2 * (32 + 6 + 20)  # a panel, the gap and a line of text


def test_viz_utils_raise_what_does_not_fit():
    batch, outs = make_inputs()
    with pytest.raises(ValueError, match="one entry per frame"):
        utils.log_training_visualizations(
            RememberingLogger(), batch, outs[:1], stage="train", step=0
        )


@pytest.mark.parametrize("fits", [True, False])
def test_gif_larger_than_swanlab_takes_is_not_handed_over(fits, monkeypatch):
    logged = []
    logger = type("SwanLabLogger", (), {"__module__": "swanlab.integration"})()
    logger.experiment = SimpleNamespace(log=lambda media, step: logged.append((list(media), step)))
    frames = [np.full((8, 8, 3), grey, np.uint8) for grey in (0, 200)]
    if not fits:
        monkeypatch.setattr(images, "_MAX_SWANLAB_BYTES", 20)
    assert utils.log_gif(logger, "val/animation", frames, 3) == fits
    assert logged == ([(["val/animation"], 3)] if fits else [])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("to_video_frames", ["batch", "video_idx"]),
        ("to_category_gt_masks", ["batch", "num_categories", "video_idx"]),
        ("extract_category_preds", ["outs_per_frame", "key"]),
        ("build_prompts_from_gt_first_frame", ["gt_masks_tchw", "prompt_type"]),
        (
            "create_composite_visualization",
            ["image", "gt_mask", "pred_mask", "prompts", "title", "num_categories"],
        ),
        ("safe_log_image", ["pl_logger", "key", "image", "step"]),
        ("log_training_visualizations", ["pl_logger", "batch", "outs_per_frame", "stage", "step"]),
    ],
)
def test_viz_utils_keep_their_signatures(name, parameters):
    found = list(inspect.signature(getattr(utils, name)).parameters)
    assert found[: len(parameters)] == parameters


def test_viz_utils_never_import_pyplot():
    import subprocess
    import sys

    code = "import sys, core.utils; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
