"""One clip under several prompt types: which column shows what, and what is written over it."""

import numpy as np
import pytest
import torch
from scenes import make_batch, take

from core.visualization.drawing import sheet as drawing
from core.visualization.drawing.sheet import render_by_prompts, render_sheet

SIZE = 64


def clip_under(prompts, shift):
    """A square of 32 pixels, seen on two frames; on the second it is found `shift` pixels off."""
    masks = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    masks[:, 0, 16:48, 8:40] = True
    logits = torch.where(masks, 1.0, -1.0)
    outs = []
    for t in range(2):
        prompted = t == 0
        coords = {"point_coords": torch.tensor([[[24.0, 32.0]]]), "point_labels": torch.ones(1, 1)}
        outs.append(
            {
                "pred_masks_high_res": logits[t, :, None].roll(0 if prompted else shift, -1),
                "point_inputs": coords if prompted and prompts == "point" else None,
                "mask_inputs": masks[t, :, None] if prompted and prompts == "mask" else None,
            }
        )
    image = torch.zeros(2, 1, 3, SIZE, SIZE)
    (clip,) = take(make_batch(image, masks, [0]), outs, panel_size=SIZE).clips()
    return clip


@pytest.fixture
def written(monkeypatch):
    """Texts that were written, with their places."""
    texts = []
    write = drawing.Canvas.write

    def remember(self, pieces, *args):
        texts.extend(pieces)
        write(self, pieces, *args)

    monkeypatch.setattr(drawing.Canvas, "write", remember)
    return texts


def rows_of(panel, sheet, x):
    """At which y a panel is found in a sheet whose column begins at x."""
    height, width = panel.shape[:2]
    column = sheet[:, x : x + width]
    return [y for y in range(len(sheet) - height) if (column[y : y + height] == panel).all()]


def last_panel(clip, name):
    """The panel of a clip's last frame as a sheet of its own shows it."""
    alone = render_sheet(clip.select([1]), panel_size=SIZE, panels=(name, "prompts"))
    return alone[-16 - SIZE : -16, 10 : 10 + SIZE]


def test_each_prompt_type_has_its_own_prediction_errors_and_iou(written):
    clips = {"mask": clip_under("mask", 0), "point": clip_under("point", 16)}
    sheet = render_by_prompts(clips, panel_size=SIZE)
    left, right = (
        [x for x, _, text in written if text.startswith(f"{kind} prompts · mean IoU {iou}")]
        for kind, iou in (("mask", "1.000"), ("point", "0.333"))
    )
    assert len(left) == len(right) == 1
    chips = [(x >= right[0], text) for x, _, text in written if text.startswith("0 IoU")]
    assert chips == [(True, "0 IoU 1.00"), (False, "0 IoU 1.00"), (True, "0 IoU 0.33")]
    for (x,), clip in ((left, clips["mask"]), (right, clips["point"])):
        predicted = rows_of(last_panel(clip, "prediction"), sheet, x)
        errors = rows_of(last_panel(clip, "errors"), sheet, x + SIZE + 6)
        assert predicted[-1] == errors[-1]


def test_a_mask_prompt_is_hatched_and_clicks_lie_over_the_prediction(written):
    one = render_by_prompts({"mask": clip_under("mask", 0)}, panel_size=SIZE)
    other = render_by_prompts({"point": clip_under("point", 0)}, panel_size=SIZE)
    labels = [text for _, _, text in written if text.startswith("frame 0")]
    assert labels == ["frame 0 · mask prompt: the prediction is the prompt", "frame 0 · prompted"]
    green = (other == (0, 140, 60)).all(2)
    assert green.sum() > 2 * (one == (0, 140, 60)).all(2).sum()


def test_small_panels_leave_words_their_room(written):
    clip = clip_under("point", 16)
    many = {f"type{k}": clip for k in range(4)}
    sheet = render_by_prompts(many, panel_size=SIZE)
    starts = sorted({x for x, _, text in written if "prompts · mean" in text})
    assert len(starts) == 4
    assert sheet.shape[1] >= starts[-1] + 2 * SIZE
    assert np.diff(starts).min() >= 400
