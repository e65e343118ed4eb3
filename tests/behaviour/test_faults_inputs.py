"""Batches and outputs that are wrong, and callers that reuse them: real fits go on untouched."""

import copy
import math
import threading

import numpy as np
import pytest
import torch
from fakes import RememberingLogger, visualizations
from trainings import assert_same_training, fit, our_warnings

from core.trainer import VisualizationsMixin
from core.visualization.snapshot import Snapshot

FAULTY = (1, 2)
FINE = [0, 3, 4, 5]
ALL = [0, 1, 2, 3, 4, 5]
HOOK = VisualizationsMixin.maybe_log_visualizations
CLIPS = Snapshot.clips


def with_logits(change):
    def spoil(batch, outs):
        for out in outs:
            out["pred_masks_high_res"] = change(out["pred_masks_high_res"].detach())
        return batch, outs

    return spoil


def with_output(name, value):
    def spoil(batch, outs):
        for out in outs:
            out[name] = value
        return batch, outs

    return spoil


def with_field(name, change):
    def spoil(batch, outs):
        batch = copy.copy(batch)
        object.__setattr__(batch, name, change(getattr(batch, name)))
        return batch, outs

    return spoil


def without_key(batch, outs):
    for out in outs:
        del out["pred_masks_high_res"]
    return batch, outs


def set_to(value, *index):
    def change(tensor):
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


def in_another_order(batch, outs):
    return batch, list(reversed(outs))


# What cannot be drawn: said once, and drawn again as soon as it is right.
NOT_DRAWN = {
    "no logits": without_key,
    "no outputs": lambda batch, outs: (batch, None),
    "no batch": lambda batch, outs: (None, outs),
    "outputs of fewer frames": lambda batch, outs: (batch, outs[:1]),
    "outputs that are no dictionaries": lambda batch, outs: (batch, [None for _ in outs]),
    "logits without channel": with_logits(lambda logits: logits[:, 0]),
    "several masks per object": with_logits(lambda logits: logits.expand(-1, 3, -1, -1)),
    "logits of another size": with_logits(lambda logits: logits[..., ::2, ::2]),
    "logits of fewer objects": with_logits(lambda logits: logits[:0]),
    "logits as an array": with_logits(lambda logits: logits.numpy()),
    "clicks without labels": with_output("point_inputs", {"point_coords": torch.zeros(1, 1, 2)}),
    "mask prompts of another size": with_output("mask_inputs", torch.zeros(1, 1, 3, 3)),
    "no masks": with_field("masks", lambda masks: None),
    "masks of another size": with_field("masks", lambda masks: masks[..., :8]),
    "frames without time": with_field("img_batch", lambda frames: frames[0]),
    "rows of fewer objects": with_field("obj_to_frame_idx", lambda rows: rows[:, :0]),
}

# What is odd but can be drawn: it is, without a word.
DRAWN = {
    "NaN logits": with_logits(set_to(math.nan, 0)),
    "inf logits": with_logits(set_to(math.inf, ..., 0)),
    "half logits": with_logits(lambda logits: logits.half()),
    "bfloat16 logits": with_logits(lambda logits: logits.bfloat16()),
    "integer logits": with_logits(lambda logits: logits.long()),
    "float masks": with_field("masks", lambda masks: masks.float()),
    "NaN frames": with_field("img_batch", set_to(math.nan, 0)),
    "inf frames": with_field("img_batch", set_to(-math.inf, 0)),
    "half frames": with_field("img_batch", lambda frames: frames.half()),
    "objects of no video": with_field("obj_to_frame_idx", set_to(99, ..., 1)),
    "objects of a negative video": with_field("obj_to_frame_idx", set_to(-1, ..., 1)),
    "outputs in another order": in_another_order,
    "NaN object scores": with_output("multistep_object_score_logits", [torch.tensor([[math.nan]])]),
    "IoUs of other objects": with_output("multistep_pred_ious", [torch.zeros(40, 3)]),
    "clicks outside the frame": lambda batch, outs: with_output(
        "point_inputs",
        {
            "point_coords": torch.full((batch.masks.shape[1], 2, 2), 1e9),
            "point_labels": torch.tensor([[1, 7]]).expand(batch.masks.shape[1], -1),
        },
    )(batch, outs),
    "NaN clicks": lambda batch, outs: with_output(
        "point_inputs",
        {
            "point_coords": torch.full((batch.masks.shape[1], 1, 2), math.nan),
            "point_labels": torch.ones(batch.masks.shape[1], 1, dtype=torch.int32),
        },
    )(batch, outs),
}


def fit_spoiled(untouched, tmp_path, spoil):
    logger = RememberingLogger()
    training = fit(
        tmp_path,
        visualizations(),
        logger,
        spoil=lambda batch, outs, step: spoil(batch, outs) if step in FAULTY else (batch, outs),
    )
    assert_same_training(training, untouched)
    return logger


@pytest.mark.parametrize("spoil", NOT_DRAWN.values(), ids=NOT_DRAWN)
def test_what_cannot_be_drawn_is_said_once(spoil, untouched, tmp_path, caplog):
    logger = fit_spoiled(untouched, tmp_path, spoil)
    assert logger.steps() == FINE
    assert len(our_warnings(caplog)) == 1


@pytest.mark.parametrize("spoil", DRAWN.values(), ids=DRAWN)
def test_what_is_odd_is_drawn(spoil, untouched, tmp_path, caplog):
    logger = fit_spoiled(untouched, tmp_path, spoil)
    assert logger.steps() == ALL
    assert not our_warnings(caplog)


@pytest.mark.parametrize("rows", [[99], [-5], [], "x", torch.tensor([[0.5]])], ids=str)
def test_components_of_unknown_categories_never_reach_training(
    rows, untouched, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        VisualizationsMixin,
        "maybe_log_visualizations",
        lambda self, *args: HOOK(self, *args, obj_to_cat=rows),
    )
    assert_same_training(fit(tmp_path, visualizations(), RememberingLogger()), untouched)


@pytest.mark.parametrize("as_array", [False, True])
def test_buffers_may_be_reused_once_the_hook_returned(as_array, tmp_path, monkeypatch):
    def drawn(reuse):
        gate = threading.Event()
        snapshots_wait_for(gate, monkeypatch)

        def call_with_buffers(self, batch, outs, *args):
            batch, outs = copy_of(batch, outs)
            rows = torch.arange(batch.masks.shape[1])
            gate.clear()
            HOOK(self, batch, outs, *args, obj_to_cat=rows.numpy() if as_array else rows)
            if reuse:
                overwrite(batch, outs, rows)
            gate.set()

        monkeypatch.setattr(VisualizationsMixin, "maybe_log_visualizations", call_with_buffers)
        logger = RememberingLogger()
        fit(tmp_path, visualizations(), logger)
        return logger

    fresh, reused = drawn(False), drawn(True)
    assert reused.steps() == ALL
    for moment, images in fresh.images.items():
        for one, other in zip(images, reused.images[moment], strict=True):
            np.testing.assert_array_equal(one, other)


def snapshots_wait_for(gate, monkeypatch):
    """Nothing is read from a snapshot before the caller of the hook opens the gate."""

    def clips(self):
        assert gate.wait(20)
        return CLIPS(self)

    monkeypatch.setattr(Snapshot, "clips", clips)


def copy_of(batch, outs):
    copies = [
        {name: None if value is None else value.detach().clone() for name, value in out.items()}
        for out in outs
    ]
    return copy.deepcopy(batch), copies


def overwrite(batch, outs, rows):
    identifiers = batch.metadata.unique_objects_identifier
    tensors = [batch.img_batch, batch.masks, batch.obj_to_frame_idx, identifiers, rows]
    for tensor in tensors + [value for out in outs for value in out.values() if value is not None]:
        tensor.fill_(7)
