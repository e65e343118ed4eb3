"""What the doctor says reaches the loggers, the run book and the sheets."""

from types import SimpleNamespace

import numpy as np
import pytest
from books import make_book, read_runs, scene_clip
from fakes import RememberingLogger, SketchModule, visualizations
from scenes import clips
from trainings import make_trainer

from core.metrics.doctor import Baseline, Diagnosis, Doctor, Fault
from core.metrics.outcomes import AtDistance, Findings
from core.visualization.drawing import sheet
from core.visualization.flush import FlushCallback
from core.visualization.images import log_text

ILL = Diagnosis(3, [Fault("ill", "it is hot", "40 degrees", "shade"), Fault("b", "c", "1", "d")])
WELL = Diagnosis(6, [])


class TextLogger(RememberingLogger):
    """One that takes texts as TensorBoard's does."""

    def __init__(self):
        super().__init__()
        self.texts = []

    @property
    def experiment(self):
        return SimpleNamespace(add_text=lambda *text: self.texts.append(text))


class SickModule(SketchModule):
    """A module whose doctor has made up his mind."""

    def __init__(self, section):
        super().__init__(section)
        self.doctor = Doctor()

    def on_validation_epoch_end(self):
        if self.global_step in (3, 6):
            self.doctor.diagnoses.append(ILL if self.global_step == 3 else WELL)


def test_what_is_wrong_reaches_the_logger_the_page_and_the_sheet(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(
        sheet,
        "_notes",
        lambda clip, close_up, told=sheet._notes: remember(notes, clip, close_up, told),
    )
    logger = TextLogger()
    module = SickModule(visualizations(run_dir=str(tmp_path), every_n_steps=100))
    trainer = make_trainer(tmp_path, logger, val_check_interval=3)
    trainer.fit(module, clips(18), clips(2, batch_size=1))
    assert logger.texts == [
        ("doctor", "step 3\n- it is hot: 40 degrees. Try shade.\n- c: 1. Try d.", 3),
        ("doctor", "step 6: nothing is wrong any more", 6),
    ]
    (run,) = read_runs(tmp_path)
    assert [each["step"] for each in run["diagnoses"]] == [3, 6]
    assert run["diagnoses"][0]["faults"][0] == vars(ILL.faults[0])
    first = {step: told[:1] for stage, step, told in notes if stage == "val"}
    assert first[3] == ["doctor, step 3: it is hot (and 1 more)"]
    assert not any("doctor" in note for step in (6, 9) for note in first[step])


def test_a_validation_that_is_interrupted_has_its_pinned_clip_drawn_all_the_same(tmp_path):
    class Stops(SickModule):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if batch_idx == 1:
                raise InterruptedError

    logger = RememberingLogger()
    module = Stops(visualizations(run_book=False, every_n_steps=100))
    trainer = make_trainer(tmp_path, logger, val_check_interval=1)
    with pytest.raises(InterruptedError):
        trainer.fit(module, clips(2), clips(2, batch_size=1))
    assert logger.moments_of("val") == [("val/composites", 1)]


def remember(notes, clip, close_up, told):
    found = told(clip, close_up)
    notes.append((clip.moment.stage, clip.moment.step, found))
    return found


def test_a_logger_without_a_place_for_text_gets_none():
    assert not log_text(RememberingLogger(), "doctor", "text", 1)
    assert not log_text(object(), "doctor", "text", 1)


def test_a_swanlab_logger_gets_one_text():
    texts = []
    kind = type("Kind", (), {"log_text": lambda self, *text, step: texts.append((*text, step))})
    kind.__module__ = "swanlab.integration"
    assert log_text(kind(), "doctor", "a\nb", 5)
    assert texts == [("doctor", ["a\nb"], 5)]


def test_wandb_gets_a_table_with_one_row_per_line():
    texts = []
    kind = type("WandbLogger", (), {"log_text": lambda self, key, **table: texts.append(table)})
    assert log_text(kind(), "doctor", "a\nb", 5)
    assert texts == [{"columns": ["doctor"], "data": [["a"], ["b"]], "step": 5}]


def test_a_resumed_run_knows_its_baseline_although_the_first_book_is_gone(tmp_path):
    head = "video,object,name,J,F,J&F,dice"
    baseline = Baseline(0, 0.25, f"{head}\na clip,1,,0.25,,,0.4\n", [])
    book = make_book(tmp_path)
    book.add(scene_clip(10), "pinned")
    book.add_curves([{"step": 10, "values": {"val/iou": 0.75}}])
    table = tmp_path / "table.csv"
    table.write_text(f"{head}\na clip,1,,0.75,,,0.8\n")
    book.add_table(table, 10)
    book.add_baseline(baseline, 10)
    book.add_baseline(baseline, 10)
    (run,) = read_runs(tmp_path)
    assert run["baseline_step"] == 0
    assert run["curves"]["val/iou"] == {"steps": [0, 10], "values": [0.25, 0.75]}
    assert [(row["baseline"], row["now"]) for row in run["objects"]] == [(0.25, 0.75)]


@pytest.mark.parametrize("iou", [float("nan"), 0.5])
def test_a_baseline_that_is_there_is_left_alone(tmp_path, iou):
    book = make_book(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("video,object,name,J,F,J&F,dice\n")
    book.add_table(table, 0)
    book.add_baseline(Baseline(0, iou, "no table", []), 10)
    assert read_runs(tmp_path)[0]["curves"] == {}
    assert np.all([path.read_text() != "no table" for path in tmp_path.glob("pictures/*.csv")])


def test_a_resumed_book_goes_on_with_what_the_doctor_said(tmp_path):
    old = make_book(tmp_path / "old")
    old.add_diagnoses([ILL], 3)
    new = make_book(tmp_path / "new", continues=tmp_path / "old" / "pictures")
    new.add_curves([{"step": 6, "values": {"train/loss": 1.0}}])
    assert [each["step"] for each in read_runs(tmp_path / "new")[0]["diagnoses"]] == [3]
    (tmp_path / "new" / "pictures" / "doctor.json").write_text('[{"st')
    assert read_runs(tmp_path / "new")[0]["diagnoses"] == []


def test_a_run_that_went_back_forgets_what_was_wrong_later(tmp_path):
    book = make_book(tmp_path)
    book.add_diagnoses([ILL], 3)
    book.add_diagnoses([], 2)
    assert read_runs(tmp_path)[0]["diagnoses"] == []


def test_a_run_that_predicts_repeats_nothing_of_the_validation_before(tmp_path):
    class Module(SickModule):
        def predict_step(self, batch, batch_idx):
            self.step(batch, batch_idx, "predict")

    logger = TextLogger()
    module = Module(visualizations(run_dir=str(tmp_path), every_n_steps=100, worst_clips=1))
    module.findings = Findings([], [AtDistance(1, 2, 0.0, 0.25, 0.5)], None, [])
    trainer = make_trainer(tmp_path, logger)
    trainer.fit(module, clips(6), clips(2, batch_size=1))
    fitted = list(logger.images)
    assert ("val/outcomes", 3) in fitted
    (run,) = read_runs(tmp_path)
    trainer.predict(module, clips(2, batch_size=1))
    new = [key for key, _ in logger.images if (key, _) not in fitted]
    assert new == ["predict/composites", "predict/worst"]
    assert len(logger.texts) == 1
    (after,) = read_runs(tmp_path)
    assert [after[part] for part in ("curves", "diagnoses", "outcomes")] == [
        run[part] for part in ("curves", "diagnoses", "outcomes")
    ]


def test_names_of_ours_may_be_the_host_s_own():
    """A host's `baseline`, `findings` and `doctor` are none of our business."""
    seen = []

    class Spy:
        def __getattr__(self, name):
            return lambda *given, **named: seen.append((name, given))

    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, loggers=[], global_step=7)
    host = SimpleNamespace(baseline=0.5, findings=[1], doctor="Who", objects_table="a table")
    FlushCallback(Spy()).on_validation_end(trainer, host)
    called = ["log_pinned", "log_prompts", "log_worst", "note_curves", "write_page"]
    assert [name for name, _ in seen] == called
    assert seen[0] == ("log_pinned", (None,))
    assert seen[-1] == ("write_page", (None, 7, None))
