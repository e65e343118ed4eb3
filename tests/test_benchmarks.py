"""The quick form of every benchmark runs; nothing is said about times."""

import functools
import json
import math

import pytest
import torch

from tests.benchmarks import (
    blocked,
    cuda,
    drawing,
    growth,
    loading,
    memory,
    outcomes,
    scale,
    step_memory,
    training,
)
from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.measure import GOALS, Results, interleave, ratios

FIGURES = {
    blocked: {"blocked_vs_usual", "blocked_vs_step", "blocked_pinned_32", "hook_not_due_us"},
    drawing: {"sheet_speedup_vs_usual", "panels_vs_copy", "stored_vs_sheet"},
    growth: {
        "growth_categories_32",
        "growth_frame_size_2048",
        "growth_frames_16",
        "growth_blocked_frame_size_2048",
    },
    training: {f"{clock}_overhead_{n}" for clock in ("wall", "cpu") for n in (10, 50, 200)},
    memory: {"peak_queue_mb"},
    outcomes: {"outcomes_time_3", "outcomes_added_ms_3"},
    scale: {"start_again_s_vos_folder", "worker_mb_over_few_coco_images"},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measures a part in its quick form, once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on small tensors more threads only wait for each other
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bench"))
        yield functools.cache(lambda part: part.measure(quick=True))
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=() if part is blocked else pytest.mark.long) for part in FIGURES],
    ids=lambda part: part.__name__.rpartition(".")[2],
)
def test_quick_form_gives_finite_figures(part, measured):
    results = measured(part)
    assert FIGURES[part] <= set(results.figures)
    assert all(math.isfinite(v) for values in results.figures.values() for v in values)
    assert not [note for note in results.notes if "dropped" in note]


def test_peers_are_measured_or_named_in_a_note(measured):
    results = measured(drawing)
    for peer in ("supervision", "mmengine", "torchvision"):
        measured = f"panels_speedup_vs_{peer}" in results.figures
        assert measured != any(note.startswith(f"{peer} is left out") for note in results.notes)


def test_loading_without_the_official_pipeline_is_named_in_a_note(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    results = loading.measure(quick=True)
    assert not results.figures
    assert results.notes == [
        "loading is left out: .venv-loading/bin/python is missing, which `make bench` makes"
    ]


def test_resident_growth_is_measured_where_the_system_tells_it(measured):
    results = measured(memory)
    assert ("rss_growth_mb_1000" in results.figures) != any(
        "resident" in note for note in results.notes
    )


def test_without_a_gpu_the_cuda_figures_are_left_out_with_a_note(measured):
    results = measured(cuda)
    if torch.cuda.is_available():
        assert "cuda_blocked_ms" in results.figures
    else:
        assert results.figures == {}
        assert "cuda_blocked_ms is left out" in results.notes[0]


def test_every_part_is_tested():
    assert set(PARTS.values()) == {*FIGURES, loading, cuda}


def test_json_holds_median_min_and_max_of_every_figure(tmp_path):
    results = Results(notes=["something was left out"])
    results.add(blocked_vs_step=[0.03, 0.01, 0.02], peak_queue_mb=2)
    results.write(tmp_path / "new" / "bench.json")
    content = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert content["figures"] == {
        "blocked_vs_step": {"median": 0.02, "min": 0.01, "max": 0.03},
        "peak_queue_mb": {"median": 2.0, "min": 2.0, "max": 2.0},
    }
    assert content["notes"] == ["something was left out"]
    assert content["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("blocked_vs_step", 0.04, "reached"),
        ("blocked_vs_step", 0.041, "MISSED"),
        ("sheet_speedup_vs_usual", 8.0, "reached"),
        ("sheet_speedup_vs_usual", 7.9, "MISSED"),
    ],
)
def test_table_tells_whether_a_goal_is_reached(name, value, verdict):
    results = Results()
    results.add(**{name: value})
    assert results.table().splitlines()[1].endswith(verdict)


def test_goals_are_those_promised():
    assert set(GOALS) == {
        "loading_speedup_vs_official_1024",
        "loading_speedup_vs_official_512",
        "loading_speedup_plain_vs_official_1024",
        "loading_speedup_plain_vs_official_512",
        "blocked_vs_usual", "blocked_vs_step", "wall_overhead_200", "wall_overhead_10",
        "sheet_speedup_vs_usual", "panels_speedup_vs_supervision", "growth_categories_32",
        "growth_frame_size_2048", "rss_growth_mb_1000", "cuda_blocked_ms", "blocked_pinned_32",
        "stored_vs_sheet", "stored_vs_sheet_128",
        "start_again_s_vos_folder", "start_again_s_sav", "start_again_s_coco_images",
        "worker_mb_over_few_vos_folder", "worker_mb_over_few_sav",
        "worker_mb_over_few_coco_images",
        *(f"outcomes_{kind}_{case}" for kind in ("time", "memory")
          for case in ("3", "40", "400", "40_1024px")),
    }  # fmt: skip


def test_functions_are_timed_in_turn_after_one_warm_up():
    calls = []
    times = interleave(2, {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


@pytest.mark.parametrize("table", ["clips", "checkpointing", "trained"])
def test_the_memory_of_each_row_of_a_table_can_be_measured(table):
    rows = step_memory.rows_of(table)
    for overrides in rows.values():
        training.default_config([*step_memory.SAME_PROMPTS, *overrides])
    peak, seconds = step_memory.measure(["model.image_size=64", *list(rows.values())[-1]])
    assert peak > 0.1
    assert seconds > 0
