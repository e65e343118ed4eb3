"""The run book: what is stored of a clip is what its sheet shows; the folder stays in bounds."""

import base64
import errno
import gzip
import io
import json
import os

import numpy as np
import pytest
from books import another_video, make_book, read_runs, scene_clip
from PIL import Image
from scenes import make_scene

from core import files
from core.visualization import store
from core.visualization.drawing import sheet
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot
from core.visualization.store import NotABook, encode_mask


def runs_of(text):
    """Undo COCO's compression by its description: 5 bits a character, lowest first, 6th: more."""
    runs, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            # From the fourth on, a run is told as its difference to the last but one.
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


def decoded(text, height, width):
    """Return the mask of a text: none, or run lengths of its rows, of which the first is 0."""
    flat = np.zeros(height * width, bool)
    at = 0
    for index, run in enumerate(runs_of(text)):
        flat[at : at + run] = index % 2
        at += run
    return flat.reshape(height, width)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 40)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_mask_is_its_rows_run_lengths_as_coco_compresses_them(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    assert np.array_equal(decoded(encode_mask(mask), *shape), mask)


def test_what_is_stored_of_an_event_is_what_the_clip_shows(tmp_path):
    clip = scene_clip(step=7)
    make_book(tmp_path).add(clip, "pinned")
    (stored,) = read_runs(tmp_path)[0]["clips"]
    (event,) = stored["events"]
    assert (event["step"], stored["kind"], stored["name"]) == (7, "pinned", "a clip")
    assert [item["id"] for item in stored["objects"]] == ["1", "2", "3"]
    size = (stored["height"], stored["width"])
    for t in range(4):
        for k in range(3):
            assert np.array_equal(decoded(stored["gt"][t][k], *size), clip.gt.masks[t, k])
            assert np.array_equal(decoded(event["pred"][t][k], *size), clip.pred.masks[t, k])
            assert event["scores"][t][k]["iou"] == pytest.approx(clip.scores.ious[t, k], abs=1e-3)


@pytest.mark.parametrize("size", [48, 96])  # a panel has all of its pixels, or a quarter
def test_errors_are_stored_by_what_differs_from_those_of_the_masks(tmp_path, size):
    clip = scene_clip(size=size, shift=5)
    make_book(tmp_path).add(clip, "pinned")
    ((event,),) = [stored["events"] for stored in read_runs(tmp_path)[0]["clips"]]
    differing = np.zeros_like(clip.errors)
    for t, frame in enumerate(event["errors"]):
        assert list(frame) == ["hit", "missed", "false"]
        differing[t] = [decoded(text, 48, 48) for text in frame.values()]
    assert differing.any() == (size == 96)
    gt, pred = clip.gt.masks, clip.pred.masks
    for index, part in enumerate((gt & pred, gt & ~pred, pred & ~gt)):
        assert np.array_equal(differing[:, index] ^ part.any(1), clip.errors[:, index])


def test_prompts_are_stored_on_their_frame_in_pixels_of_the_panel(tmp_path):
    clip = scene_clip(size=96)  # a panel has half of its pixels
    make_book(tmp_path).add(clip, "pinned")
    ((event,),) = [stored["events"] for stored in read_runs(tmp_path)[0]["clips"]]
    first, *_, last = event["prompts"]
    assert [(item["kind"], item["object"]) for item in first] == [("mask", k) for k in range(3)]
    assert event["prompted"] == [True, False, False, True]
    # The scene clicks the middle of each disc; cells are half a frame wide, columns then rows.
    expected = [(24.72, 24), (72.72, 24), (24.72, 72)]
    expected = [(x / 96 * 48, y / 96 * 48) for x, y in expected]
    found = [(item["x"], item["y"]) for item in last]
    assert found == [pytest.approx(place, abs=0.8) for place in expected]
    assert all(item["positive"] and item["round"] == 1 for item in last)


def test_frames_are_stored_once_and_look_like_those_of_the_sheet(tmp_path):
    clips = [scene_clip(step, shift=step) for step in range(3)]
    book = make_book(tmp_path)
    for clip in clips:
        book.add(clip, "pinned")
    assert len(list(tmp_path.glob("pictures/clip-*"))) == 1
    (stored,) = read_runs(tmp_path)[0]["clips"]
    assert [event["step"] for event in stored["events"]] == [0, 1, 2]
    for image, url in zip(clips[0].images, stored["images"], strict=True):
        data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
        decoded = np.asarray(Image.open(io.BytesIO(data)), float)
        assert np.abs(decoded - image).mean() < 3


def test_every_frame_is_stored_where_all_have_one_number(tmp_path):
    batch, outs = make_scene(4, 48, 3)
    batch.metadata.unique_objects_identifier[..., 2] = 0
    options = SnapshotOptions(max_frames=4, panel_size=48)
    (clip,) = take_snapshot(batch, outs, Moment("val", 0), options).clips()
    make_book(tmp_path).add(clip, "pinned")
    ((stored,),) = (run["clips"] for run in read_runs(tmp_path))
    for image, url in zip(clip.images, stored["images"], strict=True):
        data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
        assert np.abs(np.asarray(Image.open(io.BytesIO(data)), float) - image).mean() < 3
    assert len({*stored["images"]}) == 4


def test_further_frames_of_a_clip_join_those_that_are_stored(tmp_path):
    book = make_book(tmp_path)
    book.add(scene_clip(0, kept_frames=0), "pinned")
    book.add(scene_clip(1, kept_frames=4), "pinned")
    book.add(scene_clip(2, kept_frames=0), "pinned")
    (run,) = read_runs(tmp_path)
    (stored,) = run["clips"]
    assert stored["frame_numbers"] == [0, 1, 2, 3]
    assert [event.get("frames") for event in stored["events"]] == [[0, 1], None, [0, 1]]
    assert any("only the frames of its sheet at step 0, 2" in note for note in run["notes"])


def test_of_more_clips_than_a_book_remembers_none_is_stored_twice(tmp_path, monkeypatch):
    def fill(name, max_mb):
        book = make_book(tmp_path / name, max_mb=max_mb)
        for step, kept_frames in ((0, 0), (100, 4), (200, 0)):
            baseline = book.add(scene_clip(step, kept_frames=kept_frames), "pinned")
            for other in ("b", "c", "d"):
                book.add(scene_clip(step, name=other), "val")
        files = sorted((tmp_path / name / "pictures").iterdir())
        return files, baseline

    files, _ = fill("remembered", 100)
    size = sum(path.stat().st_size for path in files)
    monkeypatch.setattr("core.visualization.book._MAX_KNOWN_CLIPS", 2)
    found, baseline = fill("forgotten", (size + 100) / 2**20)
    assert [path.name for path in found] == [path.name for path in files]
    assert baseline.shape == (2, 3)
    (run,) = read_runs(tmp_path / "forgotten")
    (stored,) = [clip for clip in run["clips"] if clip["kind"] == "pinned"]
    assert stored["frame_numbers"] == [0, 1, 2, 3]
    assert [event["step"] for event in stored["events"]] == [0, 100, 200]


def test_a_clip_of_training_is_stored_beside_an_equal_one_of_the_same_step(tmp_path):
    book = make_book(tmp_path)
    for _ in range(2):
        book.add(scene_clip(0, "train"), "train")
    assert len(read_runs(tmp_path)[0]["clips"]) == len(list(tmp_path.glob("pictures/clip-*"))) == 2


def test_another_clip_of_the_same_name_is_a_clip_of_its_own(tmp_path):
    book = make_book(tmp_path)
    clip = scene_clip(0)
    book.add(clip, "val")
    book.add(another_video(clip, step=1), "val")
    assert [len(clip["events"]) for clip in read_runs(tmp_path)[0]["clips"]] == [1, 1]


def test_the_same_clip_has_the_same_key_in_every_run(tmp_path):
    for name in ("one", "two"):
        make_book(tmp_path / name).add(scene_clip(shift=len(name)), "pinned")
    one, two = read_runs(tmp_path / "one", tmp_path / "two")
    assert one["clips"][0]["key"] == two["clips"][0]["key"]


def test_the_first_validation_is_the_baseline(tmp_path):
    book = make_book(tmp_path)
    first, second = scene_clip(0, shift=6), scene_clip(100)
    assert book.add(scene_clip(0, "train"), "train") is None
    assert book.add(first, "pinned") is None
    before = book.add(second, "pinned")
    assert before == pytest.approx(first.scores.ious, abs=1e-3)
    (run,) = read_runs(tmp_path)
    assert run["baseline_step"] == 0
    for row in run["objects"]:
        assert row["baseline"] < row["now"]


def test_an_object_is_bad_from_the_first_frame_that_finds_less_than_half_of_it(tmp_path):
    clip = scene_clip(0)
    clip.scores.intersections[2, 1] = 0
    make_book(tmp_path).add(clip, "pinned")
    bad = [row["first_bad_frame"] for row in read_runs(tmp_path)[0]["objects"]]
    assert bad == [None, 2, None]


def test_an_object_that_is_on_no_prompted_frame_has_no_iou_as_in_the_metrics(tmp_path):
    clip = scene_clip(0)  # prompted on its first and last frame
    clip.gt.areas[[0, 3], 1] = 0
    make_book(tmp_path).add(clip, "pinned")
    first, absent, last = (row["now"] for row in read_runs(tmp_path)[0]["objects"])
    expected = clip.scores.ious[1:3].mean(0)
    assert (first, last) == pytest.approx((expected[0], expected[2]), abs=1e-3)
    assert absent is None


def test_where_outputs_tell_no_prompts_every_frame_counts_as_on_the_sheet(tmp_path):
    batch, outs = make_scene(4, 48, 3)
    batch.masks[0, 1] = False  # object 1 comes later
    outs = [{"pred_masks_high_res": out["pred_masks_high_res"].roll(3, -2)} for out in outs]
    options = SnapshotOptions(max_frames=4, panel_size=48)
    (clip,) = take_snapshot(batch, outs, Moment("val", 0), options).clips()
    make_book(tmp_path).add(clip, "pinned")
    (run,) = read_runs(tmp_path)
    assert run["clips"][0]["events"][0]["prompted"] == [False] * 4
    # Of object 1 frame 0 counts as well: the prediction there is a false alarm.
    assert [row["now"] for row in run["objects"]] == pytest.approx(
        clip.scores.ious.mean(0).tolist(), abs=1e-3
    )
    assert clip.mean_iou == pytest.approx(clip.scores.ious.mean(), abs=1e-3)


# What goes first when the folder is full


def fill(book, kinds):
    for step, kind in enumerate(kinds):
        stage = "train" if kind == "train" else "val"
        book.add(scene_clip(step, stage, shift=step % 5), kind)


def test_clips_of_training_go_first_and_pinned_ones_stay(tmp_path):
    book = make_book(tmp_path, max_mb=0.1)
    fill(book, ["pinned", "train"] * 12)
    (run,) = read_runs(tmp_path)
    kinds = [clip["kind"] for clip in run["clips"]]
    assert kinds.count("train") < 12
    assert [len(clip["events"]) for clip in run["clips"] if clip["kind"] == "pinned"] == [12]
    size = sum(path.stat().st_size for path in tmp_path.glob("pictures/*"))
    assert size <= 0.1 * 2**20
    assert any("train events were removed" in note for note in run["notes"])


def test_of_pinned_clips_the_first_and_the_last_event_stay(tmp_path):
    book = make_book(tmp_path, max_mb=0.02)
    fill(book, ["pinned"] * 9)
    ((clip,),) = [run["clips"] for run in read_runs(tmp_path)]
    steps = [event["step"] for event in clip["events"]]
    assert steps[0] == 0
    assert steps[-1] == 8
    assert len(steps) < 9


def test_of_all_objects_the_metrics_of_the_first_and_the_last_validation_stay(tmp_path):
    book = make_book(tmp_path, max_mb=0.2)
    table = tmp_path / "table.csv"
    for step in (0, 10, 20, 20, 30):
        rows = [f"a clip,{number},,{step / 100:.3f}" for number in range(2000)]
        table.write_text("\n".join(["video,object,name,J", *rows]))
        book.add(scene_clip(step), "pinned")
        book.add_table(table, step)
    tables = sorted(path.name for path in tmp_path.glob("pictures/objects-*"))
    assert tables == ["objects-0001-00000000.csv", "objects-0001-00000030.csv"]
    (run,) = read_runs(tmp_path)
    assert {(row["baseline"], row["now"]) for row in run["objects"]} == {(0.0, 0.3)}
    assert [event["step"] for event in run["clips"][0]["events"]] == [0, 10, 20, 30]


# Whose folder it is


def test_the_folder_of_another_run_is_left_as_it_is(tmp_path):
    make_book(tmp_path).add(scene_clip(0), "pinned")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.glob("pictures/*"))
    with pytest.raises(NotABook, match="holds another run's pictures"):
        make_book(tmp_path).add(scene_clip(0), "pinned")
    after = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.glob("pictures/*"))
    assert after == before


def test_somebody_elses_pictures_are_left_as_they_are(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(NotABook, match="holds other files"):
        make_book(tmp_path).add(scene_clip(0), "pinned")
    assert [path.name for path in tmp_path.glob("pictures/*")] == ["cat.jpg"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same folder", "another folder"])
def test_a_resumed_run_goes_on_and_replaces_what_it_does_again(tmp_path, elsewhere):
    old = make_book(tmp_path / "old")
    first = scene_clip(0, shift=6)
    for clip in (first, scene_clip(100), scene_clip(200, shift=3)):
        old.add(clip, "pinned")
    old.add_curves([{"step": step, "values": {"loss": step / 100}} for step in (50, 150, 199)])
    run_dir = tmp_path / ("new" if elsewhere else "old")
    book = make_book(run_dir, continues=tmp_path / "old" / "pictures")
    again = scene_clip(150)
    before = book.add(again, "pinned")
    book.add_curves([{"step": 160, "values": {"loss": 9.0}}])
    assert before == pytest.approx(first.scores.ious, abs=1e-3)
    (run,) = read_runs(run_dir)
    ((stored),) = run["clips"]
    assert [event["step"] for event in stored["events"]] == [0, 100, 150]
    assert run["curves"]["loss"] == {"steps": [50, 160], "values": [0.5, 9.0]}
    assert run["baseline_step"] == 0
    if elsewhere:  # the old run's own book is as it was
        ((stored),) = read_runs(tmp_path / "old")[0]["clips"]
        assert [event["step"] for event in stored["events"]] == [0, 100, 200]


class Disk:
    """A disk that takes some more writes; then it is full, or the process is killed in the next."""

    def __init__(self, monkeypatch, room, error):
        self.room, self.error = room, error
        for where, name in ((files, "replace_whole"), (store, "append_curves"), (os, "link")):
            monkeypatch.setattr(where, name, self.limited(getattr(where, name)))

    def limited(self, write):
        def wrapper(*given):
            if self.room <= 0:
                if write.__name__ == "append_curves":
                    (given[0] / "curves.jsonl").touch()
                elif not isinstance(self.error, OSError):  # nothing removes what it began
                    target = given[write.__name__ == "link"]
                    target.with_name(f"{target.name}.0123abcd.part").touch()
                raise self.error
            self.room -= 1
            return write(*given)

        return wrapper


FULL, KILLED = OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()
# A run that begins writes curves and start, then frames and event; one that resumes another run has
# that one's four files before, and the frames by then.
NUM_WRITES = [(False, FULL, 4), (True, FULL, 7), (False, KILLED, 2), (True, KILLED, 6)]
BEGINNINGS = [(*case, room) for *case, writes in NUM_WRITES for room in range(writes)]


@pytest.mark.parametrize(("resumes", "error", "room"), BEGINNINGS)
def test_a_beginning_that_fails_is_begun_again(tmp_path, monkeypatch, resumes, error, room):
    make_book(tmp_path / "old").add(scene_clip(0), "pinned")
    options = {"continues": tmp_path / "old" / "pictures"} if resumes else {}
    book = make_book(tmp_path / "new", **options)
    disk = Disk(monkeypatch, room, error)
    with pytest.raises(type(error)):
        book.add(scene_clip(10), "pinned")
    disk.room = 100
    if error is KILLED:
        book = make_book(tmp_path / "new", **options)
    book.add(scene_clip(11), "pinned")
    book.add_curves([{"step": 11, "values": {"loss": 1.0}}])
    (run,) = read_runs(tmp_path / "new")
    ((stored),) = run["clips"]
    assert [event["step"] for event in stored["events"]] == ([0, 11] if resumes else [11])
    assert stored["frame_numbers"] == [0, 1, 2, 3]
    assert run["curves"] == {"loss": {"steps": [11], "values": [1.0]}}
    assert run["notes"] == []
    assert list(tmp_path.glob("new/pictures/*.part")) == []


def test_a_run_that_resumes_the_same_one_in_a_folder_that_has_a_book_is_refused(tmp_path):
    make_book(tmp_path / "old").add(scene_clip(0), "pinned")
    options = {"continues": tmp_path / "old" / "pictures"}
    make_book(tmp_path / "new", **options).add(scene_clip(10), "pinned")
    with pytest.raises(NotABook, match="holds another run's pictures"):
        make_book(tmp_path / "new", **options).add(scene_clip(10), "pinned")


# Damaged files, and those of another version


def test_a_run_that_goes_on_after_an_older_version_changes_none_of_its_files(tmp_path):
    make_book(tmp_path).add(scene_clip(0), "pinned")
    folder = tmp_path / "pictures"
    older = folder / "start-0001.json"
    older.write_text(json.dumps({"format": 1, "start": 1, "step": 0}))
    make_book(tmp_path, continues=folder).add(scene_clip(100), "pinned")
    assert json.loads(older.read_text())["format"] == 1
    (run,) = read_runs(tmp_path)
    assert [event["step"] for event in run["clips"][0]["events"]] == [0, 100]
    assert "start-0001.json has format 1; this version reads format 2" in run["notes"]


def damage(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "foreign":
        path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    elif how == "no gzip":
        path.write_bytes(b"hello")
    else:
        header, body, _ = gzip.decompress(data).decode().split("\n")
        newer = json.dumps({**json.loads(header), "format": 99})
        path.write_bytes(gzip.compress(f"{newer}\n{body}\n".encode()))


DAMAGES = [
    (what, how)
    for what in ("pinned-*-00000001-*", "clip-*")
    for how in ("truncated", "foreign", "no gzip", "newer")
]


@pytest.mark.parametrize(("what", "how"), [*DAMAGES, ("start-0001.json", "truncated")])
def test_a_damaged_file_is_left_out_and_said(tmp_path, what, how):
    book = make_book(tmp_path)
    for step in range(3):
        book.add(scene_clip(step), "pinned")
    (path,) = tmp_path.glob(f"pictures/{what}")
    damage(path, how)
    (run,) = read_runs(tmp_path)
    assert any(path.name in note for note in run["notes"]), run["notes"]
    if what.startswith("pinned"):
        assert [event["step"] for event in run["clips"][0]["events"]] == [0, 2]


def test_a_line_of_the_curves_that_was_cut_off_costs_that_line_alone(tmp_path):
    book = make_book(tmp_path)
    book.add_curves([{"step": 1, "values": {"loss": 1.0}}])
    with (tmp_path / "pictures" / "curves.jsonl").open("a") as file:
        file.write('{"step": 2, "valu')
    book.add_curves([{"step": 3, "values": {"loss": 3.0}}])
    assert store.read_curves(tmp_path / "pictures")["loss"]["steps"] == [1, 3]


def test_the_sheet_says_before_and_now_where_there_is_a_baseline(tmp_path, monkeypatch):
    texts = []
    write = sheet.Canvas.lines
    monkeypatch.setattr(
        sheet.Canvas,
        "lines",
        lambda self, y, lines: (texts.append(lines), write(self, y, lines))[1],
    )
    clip = scene_clip(100)
    clip.baseline_ious = np.full((4, 3), 0.254)
    clip.baseline_ious[2, 1] = np.nan
    sheet.render_sheet(clip)
    words = [text for lines in texts for line in lines for _, text in line]
    third = clip.scores.ious[2]
    assert any(f"1 IoU 0.25 → {third[0]:.2f}" in text for text in words)
    assert any(f"2 IoU {third[1]:.2f}" in text for text in words)
