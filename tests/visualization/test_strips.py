"""The picture of what became of each object: known cells, its order, what it says in words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import RememberingLogger, visualizations
from scenes import moving_squares
from trainings import make_trainer

from core.config import Config, ModelConfig
from core.metrics.outcomes import FAILURES, OUTCOMES, AtDistance, Findings, Strip, Told, Track
from core.trainer import SAM2LightningModule
from core.visualization.drawing import strips as drawing
from core.visualization.drawing.distances import render_distances
from core.visualization.drawing.strips import LETTERS, render_strips


def strip(*words, object_id=0):
    codes = np.array([OUTCOMES.index(word) for word in words], np.uint8)
    told = Told.nothing(len(words), 1)
    unknown = told.predicted_ious[:, 0]
    track = Track(codes, told.frames[:, 0], *[unknown] * 3, codes == 1, *[unknown] * 3)
    return Strip("video", object_id, "", track)


@pytest.fixture
def written(monkeypatch):
    """Texts that were written, in order, on all pictures since."""
    texts = []
    write = drawing.Canvas.write

    def remember(self, pieces, *args):
        texts.extend(text for _, _, text in pieces)
        write(self, pieces, *args)

    monkeypatch.setattr(drawing.Canvas, "write", remember)
    return texts


def test_every_outcome_has_a_letter_of_its_own_and_failures_have_capitals():
    assert set(LETTERS) == set(OUTCOMES)
    assert len(set(LETTERS.values())) == len(OUTCOMES)
    assert {name for name, letter in LETTERS.items() if letter.isupper()} == set(FAILURES)


def test_a_cell_has_the_colour_of_its_outcome():
    picture = render_strips([strip("prompted", "held", "lost", "swapped")], "val")
    rows = [y for y in range(len(picture)) if (picture[y, 272] == (236, 236, 236)).all()]
    y = rows[-18]  # in the upper part of the only strip, beside its letters
    colors = [tuple(picture[y, 271 + 20 * column].tolist()) for column in range(4)]
    assert colors == [(236, 236, 236), (198, 228, 245), (213, 94, 0), (0, 90, 150)]


def test_who_fails_first_comes_first(written):
    ways = {1: ["held"] * 3, 2: ["held", "held", "lost"], 3: ["held", "lost", "held"]}
    ways[4] = ["held", "lost", "lost"]
    found = [strip("prompted", *words, object_id=k) for k, words in ways.items()]
    render_strips([*found, strip("unscored", "unscored", object_id=5)], "val · step 7")
    assert [text[0] for text in written if text.endswith("· video")] == ["4", "3", "2", "1"]
    assert (
        written[0] == "val · step 7 · 4 objects, 3 with a failure · failures on 33.3% of the frames"
    )
    assert "1 object is not scored." in written


def test_what_has_no_room_is_told_in_words(written):
    late = ["prompted", *["held"] * 58, "lost"]
    found = [strip(*late, object_id=k) for k in range(45)]
    found += [strip("prompted", "held", object_id=k) for k in range(45, 48)]
    picture = render_strips(found, "val")
    assert sum(text.endswith("· video") for text in written) == 40
    assert "+ 8 more objects: 5 fail first on frame 59 or later, 3 never fail." in written
    assert "Frames from 48 on are not drawn; clips have up to 60." in written
    assert picture.shape[1] < 1300


def test_a_long_name_leaves_room_for_the_video(written):
    found = strip("prompted", "held")
    render_strips([replace(found, name="an object " * 9, video="cats")], "val")
    (label,) = [text for text in written if text.endswith(" · cats")]
    assert label.startswith("0 an object")
    assert "…" in label


def test_no_scored_object_makes_a_picture_all_the_same():
    assert render_strips([strip("unscored")], "val").any()


def test_medians_and_quartiles_are_where_the_axis_says(written):
    now = [AtDistance(d, 4, 0.25, median, 1.0) for d, median in ((1, 0.75), (2, 0.5), (3, 0.5))]
    before = [AtDistance(d, 4, 0.0, 0.0, 0.0) for d in (1, 2, 3)]
    picture = render_distances(Findings([], now, before, []), "val").astype(int)
    blue, band = ((abs(picture - color).sum(2) < 30) for color in ((0, 90, 150), (198, 220, 238)))
    rows = [round(80 + (1 - iou) * 300) for iou in (1, 0.5, 0.25)]
    column = picture.shape[1] - 60
    assert np.flatnonzero(blue[80:, column]).mean() + 80 == pytest.approx(rows[1], abs=1)
    inside = np.flatnonzero(band[80:, column]) + 80
    assert (inside[0], inside[-1]) == (pytest.approx(rows[0], abs=2), pytest.approx(rows[2], abs=2))
    assert "median now: 0.75 → 0.50" in written
    assert "dashed, first validation: 0.00 → 0.00" in written


@pytest.mark.parametrize("now", [[], [AtDistance(1, 1, 0.5, 0.5, 0.5)]])
def test_few_distances_make_a_picture_all_the_same(now):
    assert render_distances(Findings([], now, None, []), "val").any()


def test_each_validation_of_the_training_module_logs_both_pictures(tmp_path):
    logger = RememberingLogger()
    section = visualizations(run_book=False)
    module = SAM2LightningModule(Config(model=ModelConfig(image_size=64), visualizations=section))
    data = torch.utils.data.DataLoader([moving_squares()], batch_size=None)
    make_trainer(tmp_path, logger, max_steps=1).fit(module, data, data)
    assert logger.moments_of("val/outcomes") == [("val/outcomes", 1)]
    assert logger.moments_of("val/iou_by_distance") == [("val/iou_by_distance", 1)]
