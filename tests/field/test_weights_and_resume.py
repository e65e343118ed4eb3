"""Weights as other programs save them, and checkpoints that are not those of the run."""

import dataclasses
import logging
import shutil
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from field_helpers import TINY, nothing_was_started, run_here

from core.checks import UserError
from core.config import Config, ModelConfig
from core.model.build import build_model
from core.model.loading import load_weights
from core.model.weights import CheckpointError
from core.resume import check_resumable
from core.trainer import SAM2LightningModule

SMALL = ModelConfig(image_size=64)


@pytest.fixture(scope="module")
def source():
    """The weights that files are made of."""
    torch.manual_seed(1)
    return build_model(SMALL).state_dict()


@pytest.fixture
def model():
    torch.manual_seed(2)
    return build_model(SMALL)


def renamed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


def halved(state: dict) -> dict:
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


# how the file holds the weights, and what the report is to say of it
LOADED = {
    "Meta's": (lambda s: {"model": s}, []),
    "Meta's trainer": (
        lambda s: {"model": s, "optimizer": {}, "epoch": 1, "loss": None, "steps": {"train": 1}},
        [],
    ),
    "bare": (dict, []),
    "bare, as torch gives it": (OrderedDict, []),
    "model_state_dict": (lambda s: {"model_state_dict": s, "epoch": 3}, ["model_state_dict"]),
    "state_dict without prefix": (lambda s: {"state_dict": s, "meta": {"epoch": 1}}, []),
    "net": (lambda s: {"net": s}, ["net"]),
    "DDP": (lambda s: {"model": renamed(s, "module.")}, ["module."]),
    "DDP, bare": (lambda s: renamed(s, "module."), ["module."]),
    "DDP, model_state_dict": (
        lambda s: {"model_state_dict": renamed(s, "module.")},
        ["module.", "model_state_dict"],
    ),
    "compiled": (lambda s: {"model": renamed(s, "_orig_mod.")}, ["_orig_mod."]),
    "compiled, bare": (lambda s: renamed(s, "_orig_mod."), ["_orig_mod."]),
    "compiled and DDP": (
        lambda s: {"state_dict": renamed(s, "_orig_mod.module.")},
        ["_orig_mod.module."],
    ),
    "DDP and compiled": (lambda s: {"model": renamed(s, "module._orig_mod.")}, ["_orig_mod."]),
    "Lightning": (lambda s: {"state_dict": renamed(s, "model.")}, []),
    "Lightning, compiled": (
        lambda s: {"state_dict": renamed(s, "model._orig_mod.")},
        ["_orig_mod."],
    ),
    "Lightning of another project": (lambda s: {"state_dict": renamed(s, "sam2.")}, ["sam2."]),
    "Lightning of another project, deeper": (
        lambda s: {"state_dict": renamed(s, "net.sam2_model.")},
        ["net.sam2_model."],
    ),
    "Lightning with metrics beside": (
        lambda s: {"state_dict": {**renamed(s, "model."), "loss.weight": torch.ones(1)}},
        [],
    ),
    "half precision": (lambda s: {"model": halved(s)}, []),
}


@pytest.mark.parametrize(("make", "facts"), LOADED.values(), ids=LOADED)
def test_weights_are_loaded_however_they_are_kept(tmp_path, source, model, make, facts):
    path = tmp_path / "w.pt"
    torch.save(make(source), path)
    report = load_weights(model, path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, source[name], rtol=2e-3, atol=2e-3)
    assert f"{len(source)} of {len(source)} tensors" in report
    assert all(fact in report for fact in facts), report


def test_the_name_of_the_file_does_not_matter(tmp_path, source, model):
    path = tmp_path / "best=1 (2)"
    torch.save(dict(source), path)
    load_weights(model, path)


def test_a_file_of_sam_20_is_known_behind_prefixes_too(tmp_path, source, model):
    new = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.")
    old = {k: v for k, v in source.items() if not k.startswith(new)}
    path = tmp_path / "w.pt"
    torch.save(renamed(old, "module."), path)
    assert "SAM 2.0" in load_weights(model, path)


def with_extra(state: dict) -> dict:
    return {**state, "extra.weight": torch.ones(1)}


def without_one(state: dict) -> dict:
    return {k: v for k, v in state.items() if k != next(iter(state))}


REFUSED = {
    "extra tensors": (lambda s: {"model": with_extra(s)}, ["extra.weight"]),
    "extra tensors, bare": (with_extra, ["extra.weight"]),
    "a missing tensor": (lambda s: renamed(without_one(s), "module."), ["1 missing"]),
    "two prefixes": (
        lambda s: {**renamed(s, "student."), **renamed(s, "teacher.")},
        [("student", "teacher", "prefix", "must hold", "does not fit")],
    ),
    "nothing": (lambda s: {}, []),
    "an empty entry": (lambda s: {"model": {}}, []),
    "an optimizer alone": (lambda s: {"optimizer": {"lr": 1.0}}, ["optimizer"]),
    "a list": (lambda s: list(s.values())[:3], ["list"]),
    "a tensor": (lambda s: torch.ones(3), ["tensor"]),
    "a number": (lambda s: 3, ["int"]),
    "numbers as weights": (lambda s: {"model": dict.fromkeys(s, 1.0)}, []),
    "names that are numbers": (lambda s: {"model": {1: torch.ones(1)}}, []),
    "a whole module": (lambda s: build_model(SMALL), []),
}


def refusal_of(model, path) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


@pytest.mark.parametrize(("make", "facts"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_the_models_weights_is_refused(tmp_path, source, model, make, facts):
    path = tmp_path / "w.pt"
    torch.save(make(source), path)
    said = refusal_of(model, path).lower()
    for fact in facts:
        choices = (fact,) if isinstance(fact, str) else fact
        assert any(choice in said for choice in choices), said


@pytest.mark.parametrize("key", ["extra tensors", "a missing tensor", "extra tensors, bare"])
def test_weights_of_sam_2_are_never_called_something_else(tmp_path, source, model, key):
    path = tmp_path / "w.pt"
    torch.save(REFUSED[key][0](source), path)
    assert "not the weights of a SAM 2 model" not in refusal_of(model, path)


FILES = {
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "safetensors": b"\x10\0\0\0\0\0\0\0{}              ",
    "nothing": b"",
    "zeros": bytes(1000),
    "text": "权重".encode(),
    "zip of something else": None,
    "half a file": None,
}


def write_file(kind: str, path: Path, state: dict) -> None:
    if kind == "half a file":
        torch.save({"model": state}, path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "zip of something else":
        inside = path.parent / "inside"
        inside.mkdir()
        (inside / "a.txt").write_text("x")
        shutil.move(shutil.make_archive(str(path), "zip", inside), path)
    else:
        path.write_bytes(FILES[kind])


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_weights_are_refused(tmp_path, source, model, kind):
    write_file(kind, tmp_path / "w.pt", source)
    refusal_of(model, tmp_path / "w.pt")


@pytest.mark.parametrize("make", ["bare", "DDP", "model_state_dict", "compiled"])
def test_training_starts_from_such_weights_and_says_how(monkeypatch, tmp_path, source, make):
    path = tmp_path / "w.pt"
    torch.save(LOADED[make][0](source), path)
    # without training modules that change: what is exported is what was loaded
    outcome = run_here(
        monkeypatch, tmp_path, *TINY, "logger=csv", f"model.checkpoint_path={path}",
        "model.trainable_modules=maskmem_tpos_enc",
    )  # fmt: skip
    outcome.went_well()
    exported = torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=True)["model"]
    same = [name for name in source if torch.equal(exported[name], source[name])]
    assert len(same) >= len(source) - 1
    assert outcome.says(f"{len(source)} of {len(source)} tensors", *LOADED[make][1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run of one step, with its checkpoint and exported weights."""
    folder = tmp_path_factory.mktemp("z")
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, folder, *TINY, "logger=csv").went_well()
    return folder / "run"


def last(finished) -> Path:
    return finished / "checkpoints" / "last.ckpt"


def without(key: str):
    def change(content: dict) -> dict:
        return {k: v for k, v in content.items() if k != key}

    return change


CHANGED = {
    "weights alone": lambda c: {"state_dict": c["state_dict"]},
    "no optimizer": without("optimizer_states"),
    "no schedule": without("lr_schedulers"),
    "no loops": without("loops"),
    "no weights": without("state_dict"),
    "no version": without("pytorch-lightning_version"),
    "no step": without("global_step"),
    "weights of another project": lambda c: {
        **c,
        "state_dict": {f"net.{k}": v for k, v in c["state_dict"].items()},
    },
    "nothing": lambda c: {},
    "a tensor": lambda c: torch.ones(2),
}

ANOTHER = {
    "frozen parts": (["model.trainable_modules=memory"], ["model.trainable_modules"]),
    "other frozen parts": (["model.trainable_modules=[memory,no_mem_embed]"],
                           ["model.trainable_modules"]),
    "layer decay": (["optimizer.layer_decay=0.9"], ["optimizer.layer_decay"]),
    "optimizer=finetune": (["optimizer=finetune"],
                           ["optimizer.lr=0.0005", "optimizer.image_encoder_lr=null",
                            "optimizer.layer_decay=1.0", "optimizer.weight_decay=0.01"]),
    "another model": (["model=sam2.1_hiera_tiny", "data.num_frames=4"], ["model", "tiny"]),
}  # fmt: skip


def resume(monkeypatch, folder, checkpoint, *more):
    return run_here(
        monkeypatch, folder, *TINY, "trainer.max_steps=2", "logger=swanlab",
        f"ckpt_path='{checkpoint}'", *more,
    )  # fmt: skip


@pytest.mark.parametrize(("arguments", "facts"), ANOTHER.values(), ids=ANOTHER)
def test_a_run_of_other_settings_is_refused_with_those_that_work(
    monkeypatch, tmp_path, finished, arguments, facts
):
    outcome = resume(monkeypatch, tmp_path, last(finished), *arguments)
    outcome.is_refused("ckpt_path", *facts)
    nothing_was_started(tmp_path)


def test_a_run_of_frozen_parts_is_refused_by_one_that_trains_all(monkeypatch, tmp_path, finished):
    frozen = tmp_path / "frozen"
    arguments = [*TINY, "logger=csv", "model.trainable_modules=memory"]
    run_here(monkeypatch, frozen, *arguments).went_well()
    checkpoint = frozen / "run" / "checkpoints" / "last.ckpt"
    outcome = resume(monkeypatch, tmp_path / "again", checkpoint)
    # the setting that works is the one that the run was started with
    outcome.is_refused("ckpt_path", "model.trainable_modules", "memory")
    nothing_was_started(tmp_path / "again")
    resume(monkeypatch, tmp_path / "same", checkpoint, "model.trainable_modules=memory").went_well()


@pytest.mark.parametrize(
    "setting",
    [
        "model.prompt_type=point",
        *(pytest.param(setting, marks=pytest.mark.long) for setting in (
            "seed=9", "scheduler=constant", "model.image_size=96", "data.batch_size=2",
        )),
    ],
)  # fmt: skip
def test_settings_that_may_change_are_taken(monkeypatch, tmp_path, finished, setting):
    outcome = resume(monkeypatch, tmp_path, last(finished), setting, "logger=csv")
    outcome.went_well()
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2


# What another run sets, and the setting that the checkpoint was trained with.
OTHER_OPTIMIZER = {
    "lr": (1e-5, "0.0005"),
    "image_encoder_lr": (1e-5, "null"),
    "weight_decay": (0.1, "0.01"),
    "betas": ([0.8, 0.99], "[0.9,0.95]"),
    "name": ("adam", "adamw"),
}


def check_resumed_with(path: Path, **changes) -> None:
    module = SAM2LightningModule.load_from_checkpoint(path)
    optimizer = dataclasses.replace(module.config.optimizer, **changes)
    config = dataclasses.replace(module.config, optimizer=optimizer, ckpt_path=str(path))
    check_resumable(config, module.model)


@pytest.mark.parametrize("name", OTHER_OPTIMIZER)
def test_another_optimizer_is_refused_because_the_stored_one_goes_on(finished, name):
    value, stored = OTHER_OPTIMIZER[name]
    with pytest.raises(UserError) as refused:
        check_resumed_with(last(finished), **{name: value})
    assert str(refused.value) == (
        f"ckpt_path={last(finished)} holds the optimizer with its settings: resume it with "
        f"optimizer.{name}={stored}, or start a new training from its weights with "
        f"model.checkpoint_path={last(finished)}"
    )


def test_the_same_optimizer_in_other_words_is_resumed(finished):
    check_resumed_with(last(finished))
    check_resumed_with(last(finished), image_encoder_lr=0.0005)  # which null stands for


def test_a_checkpoint_without_the_optimizers_settings_is_resumed(monkeypatch, tmp_path, finished):
    content = torch.load(last(finished), weights_only=True)
    del content["hyper_parameters"]["config"]["optimizer"]
    torch.save(content, tmp_path / "old.ckpt")
    more = ["optimizer.lr=1e-5", "logger=csv"]
    resume(monkeypatch, tmp_path, tmp_path / "old.ckpt", *more).went_well()


def test_a_new_training_starts_from_a_checkpoint_with_another_rate(monkeypatch, tmp_path, finished):
    outcome = run_here(
        monkeypatch, tmp_path, *TINY, "logger=csv", f"model.checkpoint_path={last(finished)}",
        "optimizer.lr=1e-5",
    )  # fmt: skip
    outcome.went_well()
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = content["optimizer_states"]
    assert {group["initial_lr"] for group in state["param_groups"]} == {1e-5}


def with_best(finished, path: Path, best: Path) -> Path:
    """Write the run's checkpoint as if its best weights were `best`, with an IoU never reached."""
    content = torch.load(last(finished), weights_only=True)
    (state,) = (s for key, s in content["callbacks"].items() if "'val/iou'" in key)
    score = torch.tensor(2.0)
    state |= {"best_model_path": str(best), "kth_best_model_path": str(best)}
    state |= {"best_k_models": {str(best): score}, "best_model_score": score, "kth_value": score}
    torch.save(content, path)
    return path


def exported(run: Path) -> dict:
    return torch.load(run / "weights" / "best.pt", weights_only=True)["model"]


def test_a_resumed_run_exports_the_best_of_the_whole_training(monkeypatch, tmp_path, finished):
    (best,) = (finished / "checkpoints").glob("best-step*.ckpt")
    checkpoint = with_best(finished, tmp_path / "w.ckpt", best)
    outcome = resume(monkeypatch, tmp_path, checkpoint, "logger=csv")
    outcome.went_well()
    assert not outcome.says("does not exist any more")
    first, last_ones = exported(finished), exported(tmp_path / "run")
    assert all(torch.equal(first[name], value) for name, value in last_ones.items())


@pytest.mark.parametrize(
    ("max_steps", "said", "names"),
    [
        (2, "the best one from now on counts", ["best.pt", "last.pt", "load.py"]),
        # Nothing is left to train or to validate.
        (1, "it is not exported", ["last.pt", "load.py"]),
    ],
)
def test_a_run_whose_earlier_best_is_gone_says_so_and_exports_what_there_is(
    monkeypatch, tmp_path, finished, max_steps, said, names
):
    gone = tmp_path / "elsewhere" / "best-step9.ckpt"
    checkpoint = with_best(finished, tmp_path / "w.ckpt", gone)
    more = [f"trainer.max_steps={max_steps}", "logger=csv"]
    outcome = resume(monkeypatch, tmp_path, checkpoint, *more)
    outcome.went_well()
    assert outcome.says(str(gone), "does not exist any more", said)
    files = {path.name for path in (tmp_path / "run" / "weights").iterdir()}
    assert files >= set(names)
    assert ("best.pt" in files) == ("best.pt" in names)


def test_exported_weights_are_refused_with_the_setting_that_takes_them(
    monkeypatch, tmp_path, finished
):
    weights = finished / "weights" / "last.pt"
    outcome = resume(monkeypatch, tmp_path, weights)
    outcome.is_refused("ckpt_path", "model.checkpoint_path", str(weights))
    nothing_was_started(tmp_path)
    started = [*TINY, "logger=csv", f"model.checkpoint_path={weights}"]
    run_here(monkeypatch, tmp_path, *started).went_well()


@pytest.mark.parametrize("make", ["bare", "model_state_dict", "Lightning of another project"])
def test_weights_of_other_programs_are_refused_with_that_setting_too(
    monkeypatch, tmp_path, source, make
):
    torch.save(LOADED[make][0](source), tmp_path / "w.pt")
    outcome = resume(monkeypatch, tmp_path, tmp_path / "w.pt")
    outcome.is_refused("ckpt_path", "model.checkpoint_path", "w.pt")
    nothing_was_started(tmp_path)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_refused(monkeypatch, tmp_path, source, kind):
    write_file(kind, tmp_path / "w.ckpt", source)
    outcome = resume(monkeypatch, tmp_path, tmp_path / "w.ckpt")
    outcome.is_refused("ckpt_path", "w.ckpt")
    nothing_was_started(tmp_path)


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_checkpoints_that_lack_something_are_refused(monkeypatch, tmp_path, finished, change):
    content = torch.load(last(finished), weights_only=True)
    torch.save(change(content), tmp_path / "w.ckpt")
    outcome = resume(monkeypatch, tmp_path, tmp_path / "w.ckpt")
    outcome.is_refused("ckpt_path", "w.ckpt")
    nothing_was_started(tmp_path)


def test_a_folder_is_refused(monkeypatch, tmp_path, finished):
    outcome = resume(monkeypatch, tmp_path, finished)
    outcome.is_refused("ckpt_path", str(finished))


def test_the_checkpoint_may_have_the_name_that_lightning_gives(monkeypatch, tmp_path, finished):
    path = tmp_path / "epoch=3-step=300.ckpt"
    shutil.copy(last(finished), path)
    arguments = [*TINY, "trainer.max_steps=2", "logger=csv", f"ckpt_path={path}"]
    run_here(monkeypatch, tmp_path, *arguments).went_well()


@pytest.mark.parametrize("options", [{}, {"map_location": "cpu"}, {"weights_only": False}])
def test_lightning_loads_a_checkpoint_into_a_module(finished, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        module = SAM2LightningModule.load_from_checkpoint(last(finished), **options)
    assert type(module.config) is Config
    stored = torch.load(last(finished), weights_only=True)
    assert module.config.model.image_size == 64
    state = module.state_dict()
    assert set(state) == set(stored["state_dict"])
    assert all(torch.equal(state[name], value) for name, value in stored["state_dict"].items())
    assert dataclasses.asdict(module.config) == stored["hyper_parameters"]["config"]


def test_another_configuration_can_be_given(finished):
    config = Config(model=ModelConfig(image_size=96))
    module = SAM2LightningModule.load_from_checkpoint(last(finished), config=config)
    assert module.config.model.image_size == 96


def test_a_module_is_built_from_a_configuration_as_before():
    module = SAM2LightningModule(Config(model=SMALL))
    assert type(module.config) is Config
    assert module.hparams["config"]["model"]["image_size"] == 64


@pytest.fixture(scope="module")
def started_elsewhere(finished, tmp_path_factory):
    """The checkpoint of a run whose starting weights are gone."""
    folder = tmp_path_factory.mktemp("z")
    weights = shutil.copy(finished / "weights" / "last.pt", folder / "start.pt")
    with pytest.MonkeyPatch.context() as patch:
        arguments = [*TINY, "logger=csv", f"model.checkpoint_path={weights}"]
        run_here(patch, folder, *arguments).went_well()
    Path(weights).unlink()
    return folder / "run" / "checkpoints" / "last.ckpt"


def test_a_module_is_loaded_where_its_starting_weights_are_gone(started_elsewhere):
    module = SAM2LightningModule.load_from_checkpoint(started_elsewhere)
    stored = torch.load(started_elsewhere, weights_only=True)["state_dict"]
    state = module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stored.items())


def test_a_run_is_resumed_where_its_starting_weights_are_gone(
    monkeypatch, tmp_path, started_elsewhere
):
    weights = started_elsewhere.parents[2] / "start.pt"
    more = [f"model.checkpoint_path={weights}", "logger=csv"]
    resume(monkeypatch, tmp_path, started_elsewhere, *more).went_well()


def test_loading_leaves_the_log_alone(finished, caplog):
    caplog.set_level(logging.WARNING)
    SAM2LightningModule.load_from_checkpoint(last(finished))
    assert not caplog.records
