"""``python -m core.report``: the page of a run, rebuilt, and runs side by side."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from books import another_video, make_book, read_runs, scene_clip

from core.metrics.outcomes import OUTCOMES, AtDistance, Findings, Strip, Told, Track
from core.report import write_comparison, write_page
from core.report.__main__ import main
from core.report.summary import without_paths
from core.visualization.store import names_of_runs

LOST, HELD = OUTCOMES.index("lost"), OUTCOMES.index("held")
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> ' \" & \u202e אב 猫"


def report(*arguments, cwd):
    root = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", "core.report", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": root}
    )


def run_here(monkeypatch, folder, *arguments):
    """The same in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["core.report", *arguments])
    main()


@pytest.fixture
def two_runs(tmp_path):
    for name, shift in (("one", 4), ("two", 0)):
        book = make_book(tmp_path / name)
        book.add(scene_clip(0, shift=8), "pinned")
        book.add(scene_clip(10, shift=shift), "pinned")
        book.add_curves([{"step": 10, "values": {"train/loss": 0.5}}])
    return tmp_path


def embedded(page):
    """The document in a page, as the browser finds it: up to the first end of a script."""
    text = page.read_text(encoding="utf-8")
    start = re.search(r'<script[^>]*id="book"[^>]*>', text).end()
    return json.loads(text[start : text.index("</script", start)])


def test_the_command_writes_the_page_of_a_run_beside_it(two_runs):
    done = report(two_runs / "one", cwd=two_runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(two_runs / "one" / "run.html")
    (run,) = embedded(two_runs / "one" / "run.html")["runs"]
    assert run == read_runs(two_runs / "one")[0]


def test_the_command_puts_runs_side_by_side(two_runs, monkeypatch, capsys):
    run_here(monkeypatch, two_runs, "one", "two", "-o", "new/page.html")
    assert capsys.readouterr().out.strip() == "new/page.html"
    runs = embedded(two_runs / "new" / "page.html")["runs"]
    assert [run["name"] for run in runs] == ["one", "two"]
    assert runs[0]["clips"][0]["key"] == runs[1]["clips"][0]["key"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere has no folder pictures: it is no run, or it had no pictures"),
        (["."], ". has no folder pictures"),
        (["one", "-o", "one"], "one cannot be written"),
    ],
)
def test_a_mistake_ends_in_one_sentence(two_runs, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=f"^error: {re.escape(message)}.*$"):
        run_here(monkeypatch, two_runs, *arguments)


def test_clips_of_one_name_with_other_frames_are_not_laid_over_each_other(tmp_path):
    clip = scene_clip(0)
    make_book(tmp_path / "one").add(clip, "pinned")
    make_book(tmp_path / "two").add(another_video(clip), "pinned")
    one, two = read_runs(tmp_path / "one", tmp_path / "two")
    assert one["clips"][0]["key"] != two["clips"][0]["key"]
    assert two["objects"][0]["clip"] == two["clips"][0]["key"]
    assert any("has other frames" in note for note in two["notes"])


def test_of_three_runs_of_one_folder_name_each_shows_its_own_clips(tmp_path):
    clip = scene_clip(0)
    upside_down = np.ascontiguousarray(clip.images[:, ::-1])
    clips = [clip, another_video(clip), dataclasses.replace(clip, images=upside_down)]
    run_dirs = [tmp_path / name / "version_0" for name in ("a", "b", "c")]
    for run_dir, own in zip(run_dirs, clips, strict=True):
        make_book(run_dir).add(own, "pinned")
    runs = read_runs(*run_dirs)
    assert [run["name"] for run in runs] == ["a/version_0", "b/version_0", "c/version_0"]
    assert len({run["clips"][0]["key"] for run in runs}) == 3
    assert [run["objects"][0]["clip"] for run in runs] == [run["clips"][0]["key"] for run in runs]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/logs/version_0"], ["version_0"]),
        (["/x/outputs/2026-11-26/03-23-04"], ["2026-11-26/03-23-04"]),
        (["/x/multirun/03-23-04/7"], ["03-23-04/7"]),
        (["/x/one", "/y/two"], ["one", "two"]),
        (["/a/logs/v", "/b/logs/v", "/b/w"], ["a/logs/v", "b/logs/v", "w"]),
        (["/x/a", "/y/x/a"], ["x/a", "y/x/a"]),
        (["/x/sweep/1/run", "/x/sweep/2/run"], ["1/run", "2/run"]),
        (["/x/a", "/x/a", "/y/b"], ["a", "a", "b"]),  # one and the same
    ],
)
def test_a_run_is_called_by_as_many_folders_as_tell_it_from_others(paths, names):
    assert names_of_runs([Path(path) for path in paths]) == names


def test_a_hostile_name_is_text_and_ends_no_script(tmp_path):
    book = make_book(tmp_path)
    clip = scene_clip(0, name=HOSTILE)
    clip.category_names = [HOSTILE] * 3
    book.add(clip, "pinned")
    (run,) = embedded(write_page(tmp_path))["runs"]
    assert "</script><script>alert(1)</script>" in run["clips"][0]["name"]
    assert run["clips"][0]["objects"][0]["name"] == HOSTILE
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<!-- <img" not in text


def test_half_a_character_in_a_name_does_not_stop_the_page(tmp_path):
    make_book(tmp_path).add(scene_clip(0, name="a\udc80b"), "pinned")
    write_page(tmp_path)
    assert embedded(tmp_path / "run.html")["runs"][0]["clips"][0]["name"].startswith("a")


def test_the_page_is_replaced_at_once_or_not_at_all(two_runs, monkeypatch):
    page = write_page(two_runs / "one")
    before = page.read_bytes()

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr("core.report.assemble._clip", fail)
    with pytest.raises(MemoryError):
        write_page(two_runs / "one")
    assert page.read_bytes() == before
    assert list((two_runs / "one").glob("*.part")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/videos/cat.mp4", "cat.mp4"),
        ('"/home/someone/my_videos"', '"my_videos"'),
        ("[/a/b, /c/d/e]", "[b, e]"),
        (r"C:\Users\someone\data", "data"),
        ("videos/cat", "videos/cat"),
        ("val/iou 0.5 / 0.7", "val/iou 0.5 / 0.7"),
        ("https://example.org/a", "https://example.org/a"),
        ("1/2", "1/2"),
    ],
)
def test_of_an_absolute_path_the_last_part_is_told(text, expected):
    assert without_paths({"a": [text]}) == {"a": [expected]}


def test_settings_come_without_secrets_and_folders_of_the_machine(tmp_path):
    make_book(tmp_path).add(scene_clip(0, name="/data/videos/cat"), "pinned")
    rows = [["data.root", '"/data/videos"', "null"], ["swanlab.api_key", '"s3cr3t"', "null"]]
    (tmp_path / "settings.json").write_text(json.dumps(rows))
    page = write_comparison([tmp_path], tmp_path / "page.html").read_text()
    assert '["data.root","\\"videos\\"","null"]' in page
    assert "s3cr3t" not in page
    assert "/data/" not in page
    assert str(tmp_path) not in page


def test_the_table_of_all_objects_says_what_changed(tmp_path):
    book = make_book(tmp_path)
    table = tmp_path / "table.csv"
    for step, ious in ((0, (0.25, 0.5)), (10, (0.75, 0.4))):
        book.add(scene_clip(step), "pinned")
        rows = [
            f"{video},1,,{iou},,,{iou}" for video, iou in zip(("a clip", "b"), ious, strict=True)
        ]
        table.write_text("\n".join(["video,object,name,J,F,J&F,dice", *rows]))
        book.add_table(table, step)
    (run,) = read_runs(tmp_path)
    found = [(row["video"], row["baseline"], row["now"], row["clip"]) for row in run["objects"]]
    key = run["clips"][0]["key"]
    assert found == [("a clip", 0.25, 0.75, key), ("b", 0.5, 0.4, None)]


def test_objects_keep_their_baseline_where_a_resumed_run_has_more_categories(tmp_path):
    book = make_book(tmp_path)
    book.add(scene_clip(0, shift=4), "pinned")
    book.add(scene_clip(10, num_categories=5), "pinned")
    (run,) = read_runs(tmp_path)
    before, now = (event["scores"] for event in run["clips"][0]["events"])
    assert [len(before[1]), len(now[1])] == [3, 5]
    for k, row in enumerate(run["objects"][:3]):
        expected = [np.mean([frame[k]["iou"] for frame in told[1:3]]) for told in (before, now)]
        assert [row["baseline"], row["now"]] == pytest.approx(expected, abs=2e-3)
        assert row["baseline"] < row["now"]
    assert all(row["baseline"] is row["now"] is None for row in run["objects"][3:])


def test_then_and_now_are_the_first_and_the_last_validation_alone(tmp_path):
    book = make_book(tmp_path)
    drawn = [
        ("each time", "pinned", (0, 10, 20)),
        ("at first", "worst", (0,)),
        ("between", "worst", (10,)),
        ("in the end", "worst", (20,)),
    ]
    for name, kind, steps in drawn:
        for step in steps:
            book.add(scene_clip(step, name=name, shift=24 - step), kind)
    book.add(scene_clip(30, "test", name="of a test"), "test")
    (run,) = read_runs(tmp_path)
    assert run["baseline_step"] == 0
    rows = {name: [row for row in run["objects"] if row["video"] == name] for name, *_ in drawn}
    known = {
        name: {tuple(row[when] is not None for when in ("baseline", "now")) for row in found}
        for name, found in rows.items()
    }
    assert known == {
        "each time": {(True, True)},
        "at first": {(True, False)},
        "between": {(False, False)},
        "in the end": {(False, True)},
    }
    assert all(row["clip"] and row["first_bad_frame"] is None for row in rows["between"])
    tested = [row["now"] for row in run["objects"] if row["video"] == "of a test"]
    assert len(tested) == 3
    assert all(tested)


def test_where_an_object_is_bad_is_told_of_the_validation_whose_table_it_is_in(tmp_path):
    book = make_book(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("video,object,name,J\na clip,1,,0.1\n")
    book.add(scene_clip(0, shift=24), "worst")
    book.add_table(table, 0)
    assert read_runs(tmp_path)[0]["objects"][0]["first_bad_frame"] is not None
    book.add_table(table, 10)
    assert read_runs(tmp_path)[0]["objects"][0]["first_bad_frame"] is None


def findings(*strips):
    """Objects of videos with their outcomes: prompted, then lost, or held."""
    told = Told.nothing(2, 1)
    unknown = told.predicted_ious[:, 0]
    made = []
    for video, object_id, code in strips:
        codes = np.array([1, code], np.uint8)
        track = Track(codes, told.frames[:, 0], *[unknown] * 3, codes == 1, *[unknown] * 3)
        made.append(Strip(video, object_id, "", track))
    return Findings(made, [AtDistance(1, 2, 0.0, 0.25, 0.5)], None, [])


def test_the_page_has_the_outcomes_of_the_last_validation_alone(tmp_path):
    book = make_book(tmp_path / "run")
    clip = scene_clip(0)
    book.add(clip, "pinned")
    book.add_outcomes(findings(("a clip", 1, LOST)), 0)
    book.add_outcomes(findings(("a clip", clip.ids[1], HELD), ("/home/me/other", 4, LOST)), 10)
    (run,) = read_runs(tmp_path / "run")
    found = run["outcomes"]
    assert found["step"] == 10
    first, second = found["strips"]
    assert (first["video"], first["letters"], first["clip"]) == ("other", "pL", None)
    assert (second["letters"], second["frames"]) == ("ph", [0, 1])
    assert second["clip"] == run["clips"][0]["key"]
    assert found["now"] == [[1, 0.0, 0.25, 0.5]]
    assert found["before"] == []
    assert len(list((tmp_path / "run" / "pictures").glob("outcomes-*"))) == 1


def test_damaged_outcomes_are_left_out_and_told(tmp_path):
    book = make_book(tmp_path / "run")
    book.add(scene_clip(0), "pinned")
    book.add_outcomes(findings(("a clip", 1, LOST)), 0)
    (path,) = (tmp_path / "run" / "pictures").glob("outcomes-*")
    path.write_bytes(path.read_bytes()[:40])
    (run,) = read_runs(tmp_path / "run")
    assert run["outcomes"] is None
    assert any(path.name in note for note in run["notes"])
