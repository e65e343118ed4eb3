"""Pages of real runs in a real browser: every mask on them is the stored one.

Run with `make browser`; needs chromium, chromium-driver and selenium.
"""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from books import read_runs
from processes import REPOSITORY, TINY_RUN
from scenes import coco_content
from test_page import (
    FALSE,
    HIT,
    MISSED,
    clip_of,
    errors_of,
    expected_masks,
    hide_all_but,
    masks_of,
    shape_of,
)

NAMES = [
    "Grasper", "剪刀", "مقص", "крючок", "aspirator <b>", "Clip-Applier", "needle & thread", "gauze",
    "ligasure", "bag", "é́", "🩹 plaster", "trocar",
]  # fmt: skip

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def arguments_of(run_dir, *overrides) -> list[str]:
    own = ("logger=csv", "trainer.validate_first=true", "data.val_batch_size=1", *overrides)
    return [sys.executable, "train.py", *TINY_RUN, f"hydra.run.dir={run_dir}", *own]


def train(run_dir, *overrides):
    """Train for a few steps; return the run directory."""
    command = arguments_of(run_dir, "data.num_frames=4", "visualizations.max_frames=2", *overrides)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir


def report(*arguments) -> None:
    command = [sys.executable, "-m", "core.report", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("default") / "run")


def check_masks(page, book: dict, num_runs: int = 1) -> int:
    """Compare every mask, prompt and error of the page with the stored ones; count the objects."""
    num_seen = 0
    for run in range(num_runs):
        for clip in book["runs"][run]["clips"]:
            for event in clip["events"]:
                own = event.get("frames") or range(len(clip["frame_numbers"]))
                for position, t in enumerate(own):
                    number, step = clip["frame_numbers"][t], event["step"]
                    page.run("book.open(...arguments)", clip["key"], number, step)
                    num_seen += check_frame(page, run, clip, event, position, t)
    return num_seen


def check_frame(page, run: int, clip: dict, event: dict, position: int, t: int) -> int:
    colors = [tuple(bytes.fromhex(thing["color"][1:])) for thing in clip["objects"]]
    truth = event["gt"][position] if event.get("gt") else clip["gt"][t]
    for kind, stored in (("ground truth", truth), ("prediction", event["pred"][position])):
        expected = expected_masks(masks_of(clip, stored), colors)
        found = page.layer(shape_of(clip), kind, run=run)
        np.testing.assert_array_equal(found, expected)
    names, signs = ("hit", "missed", "false"), (HIT, MISSED, FALSE)
    differing = masks_of(clip, [event["errors"][position][name] for name in names])
    of_masks = errors_of(masks_of(clip, truth), masks_of(clip, event["pred"][position]))
    parts = differing ^ np.stack([of_masks[name] for name in names])
    found = page.layer(shape_of(clip), "errors", run=run)
    np.testing.assert_array_equal(found[..., 3] > 0, parts.any(0))
    for part, others, color in (
        (parts[k], np.delete(parts, k, 0).any(0), signs[k]) for k in range(3)
    ):
        assert (found[part & ~others] == (*color, 255)).all()
    return sum(bool(text) for text in truth)


def is_quiet(page) -> bool:
    return page.complaints() == [] and page.requests() == [] and page.texts("#fault") == [""]


def test_the_page_of_the_default_run(page, default_run):
    book = page.visit(default_run / "run.html", {"runs": read_runs(default_run)})
    assert check_masks(page, book) > 20
    words = page.find("#summary").text
    values = book["runs"][0]["curves"]["val/iou"]["values"]
    assert f"{values[0]:.2f}" in words
    assert "first validation (step 0) → now (step 4)" in words
    pinned = next(clip for clip in book["runs"][0]["clips"] if clip["kind"] == "pinned")
    page.run("book.open(arguments[0], 0)", pinned["key"])
    hide_all_but(page, pinned, pinned["objects"][0]["id"])
    mask = masks_of(pinned, pinned["gt"][0])[0]
    found = page.layer(shape_of(pinned), "ground truth")
    np.testing.assert_array_equal(found[..., 3] > 0, mask)
    assert is_quiet(page)


def test_the_page_of_a_run_with_clicks_and_corrections(page, tmp_path):
    run_dir = train(tmp_path / "run", "model.prompt_type=point", "model.num_correction_points=2")
    book = page.visit(run_dir / "run.html", {"runs": read_runs(run_dir)})
    assert check_masks(page, book) > 20
    clip = next(clip for clip in book["runs"][0]["clips"] if clip["kind"] == "pinned")
    event = clip["events"][-1]
    clicks = [prompt for prompt in event["prompts"][0] if prompt["kind"] == "click"]
    assert {click["round"] for click in clicks} == {0, 1, 2}
    page.run("book.open(arguments[0], arguments[1])", clip["key"], clip["frame_numbers"][0])
    page.button("Frame").click()
    panel = page.canvas(2)
    factor = panel.shape[0] / clip["height"]
    for click in clicks:
        assert panel[int(click["y"] * factor), int(click["x"] * factor), 3] == 255
    assert {"positive click", "number: correction round"} <= set(page.texts(".keys span"))
    assert is_quiet(page)


def test_the_page_of_a_category_layout_with_13_names(page, tmp_path):
    content = coco_content(tmp_path, ("x", "y", "z"))
    content["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    (tmp_path / "train.json").write_text(json.dumps(content))
    run_dir = train(
        tmp_path / "run", "data=coco_video", f"data.train_annotations={tmp_path / 'train.json'}",
        f"data.image_root={tmp_path / 'frames'}", "data.num_frames=3",
    )  # fmt: skip
    book = page.visit(run_dir / "run.html", {"runs": read_runs(run_dir)})
    assert check_masks(page, book) > 5
    shown = page.texts("#legend label")
    clip = clip_of(book, page.state("clip"))
    assert shown == [f"{thing['id']} {thing['name']}" for thing in clip["objects"]]
    assert {thing["name"] for thing in clip["objects"]} <= set(NAMES)
    assert is_quiet(page)


def test_the_page_of_a_run_that_was_killed(page, tmp_path):
    run_dir = tmp_path / "run"
    command = arguments_of(run_dir, "trainer.max_steps=5000", "trainer.val_check_interval=2")
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in itertools.repeat(None, 2400):
            if len(list(run_dir.glob("pictures/pinned-*"))) > 6 or process.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    (run_dir / "run.html").unlink(missing_ok=True)
    report(run_dir)
    book = page.visit(run_dir / "run.html", {"runs": read_runs(run_dir)})
    assert check_masks(page, book) > 5
    assert "not finished" in page.find("#subtitle").text
    assert is_quiet(page)


def test_the_page_of_two_runs_compared(page, default_run, tmp_path):
    other = train(tmp_path / "other", "optimizer.lr=1e-5")
    report(default_run, other, "-o", tmp_path / "both.html")
    book = page.visit(tmp_path / "both.html", {"runs": read_runs(default_run, other)})
    pinned = [
        {clip["key"] for clip in run["clips"] if clip["kind"] == "pinned"} for run in book["runs"]
    ]
    assert pinned[0] == pinned[1]
    for run in book["runs"]:
        run["clips"] = [clip for clip in run["clips"] if clip["kind"] == "pinned"]
    assert check_masks(page, book, num_runs=2) > 20
    assert page.texts("#about .differs th") == ["optimizer.lr"]
    changes = page.texts("#objects tbody td.num:nth-last-child(2)")
    texts = [text.strip("▲▼+ ").replace("−", "-").replace("unchanged", "0") for text in changes]
    assert (values := [float(text) for text in texts]) == sorted(values)
    assert is_quiet(page)
