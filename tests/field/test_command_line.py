"""What people type: paths and texts as they are, and one sentence for settings that cannot work."""

import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from field_helpers import (
    ROOT,
    TINY,
    check,
    check_set,
    nothing_was_started,
    run_here,
    without_run_book,
    working_in,
    write_set,
)
from hydra import compose, initialize_config_dir

from core.checks import UserError
from core.config import CONFIG_DIR, Config, TrainerConfig, _field_names, to_config
from core.overrides import prepare
from train import build

NAMES = [
    "my videos", "run=1", "epoch=3-step=300", "a,b", "a, b", "videos (1)", "(1)", "100%", "me@home",
    "视频", "tëst", "a#b", "#1", "v[1]", "[1]", "a'b", "it's", 'a"b', "a:b", "a{b}", "{b}", "$x",
    "a|b", "a*b", "a?b", "a&b", "a;b", "a!b", "a~b", "a+b", "a^b", "a`b", "<a>", "a  b", "=a",
    "a=", "-a", "a\\b", "✂️", "null", "true", "1e3", "007", "1_000", "a}b",
    "a]b", "a)b", "'", "''", "a\tb",
]  # fmt: skip
SOME = ["my videos", "run=1", "a,b", "videos (1)", "视频", "a#b", "v[1]", "it's", "{b}"]
every_name = pytest.mark.parametrize(
    "name",
    [*SOME, *(pytest.param(name, marks=pytest.mark.long) for name in NAMES if name not in SOME)],
)


def printed_config(monkeypatch, tmp_path, *arguments) -> dict:
    outcome = run_here(monkeypatch, tmp_path, "--cfg", "job", *arguments)
    assert outcome.end == "", outcome.end
    return yaml.safe_load(outcome.printed)


@every_name
def test_the_check_takes_paths_as_they_are(folder, name):
    missing = folder / "nope" / name
    outcome = check(folder, "data=vos_folder", f"data.root={missing}")
    outcome.is_refused("data.root", f"{missing} does not exist")


@every_name
def test_training_takes_paths_as_they_are(monkeypatch, tmp_path, name):
    missing = tmp_path / "nope" / name
    outcome = run_here(monkeypatch, tmp_path, "data=vos_folder", f"data.root={missing}")
    outcome.is_refused("data.root", f"{missing} does not exist")


@pytest.mark.parametrize("name", SOME)
def test_data_sets_of_any_name_are_read(folder, name):
    (folder / name).mkdir()
    check_set(write_set(folder / name)).went_well()


@pytest.mark.parametrize("name", SOME)
def test_names_inside_a_data_set_may_be_any_too(folder, name):
    made = write_set(folder, videos=(name, "b"))
    (folder / f"{name}.txt").write_text(f"{name}\n", encoding="utf-8")
    made.fields["val_list"] = f"{name}.txt"
    outcome = check_set(made)
    outcome.went_well()
    assert outcome.printed.count("4 annotated frames") == 2


PATHS = {
    "data.train_list": ["data=vos_folder", "data.root={0}"],
    "data.val_list": ["data=vos_folder", "data.root={0}"],
    "data.image_folder": ["data=vos_folder", "data.root={0}"],
    "data.annotation_folder": ["data=vos_folder", "data.root={0}"],
    "data.train_annotations": ["data=coco_video"],
    "model.checkpoint_path": [],
    "ckpt_path": [],
}


@pytest.mark.parametrize("field", PATHS)
@pytest.mark.parametrize("name", ["epoch=3-step=300.ckpt", "a, b (1)", "视频#1"])
def test_every_path_is_taken_as_it_is(monkeypatch, folder, tmp_path, field, name):
    write_set(folder)
    others = [argument.format(folder) for argument in PATHS[field]]
    outcome = run_here(monkeypatch, tmp_path, *TINY, *others, f"{field}={tmp_path}/x/{name}")
    outcome.is_refused(field, f"{tmp_path}/x/{name}")


@pytest.mark.parametrize("name", ["run=1", "my runs", "运行 (1)", "a,b"])
@pytest.mark.parametrize("field", ["hydra.run.dir", "swanlab.log_dir"])
def test_folders_that_are_written_may_have_any_name(monkeypatch, tmp_path, field, name):
    target = tmp_path / "out" / name
    outcome = run_here(
        monkeypatch, tmp_path, *TINY, "trainer.limit_val_batches=0", f"{field}={target}",
        "logger=swanlab" if field == "swanlab.log_dir" else "logger=csv",
    )  # fmt: skip
    outcome.went_well()
    assert any(target.iterdir())
    if field == "hydra.run.dir":
        assert (target / "checkpoints" / "last.ckpt").is_file()


TEXTS = {
    "swanlab.experiment_name": lambda c: c["swanlab"]["experiment_name"],
    "swanlab.description": lambda c: c["swanlab"]["description"],
    "data.image_root": lambda c: c["data"]["image_root"],
}


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize(
    "text",
    [
        "lr 1e-3, second try", "a=b", "a: b", "(first)", "#3", "[a]", "{a: 1}", "it's", "50 %",
        "1e-3", "007", "true", "手术", "a\\b", "x y  z",
    ],
)  # fmt: skip
def test_texts_need_no_quotes(monkeypatch, tmp_path, field, text):
    config = printed_config(monkeypatch, tmp_path, f"{field}={text}")
    assert TEXTS[field](config) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("'null'", "null"),
        ("'a, b'", "a, b"),
        ('"a, b"', "a, b"),
        ("'it\\'s'", "it's"),
        ("${model.architecture}", "tiny"),
        ("run_${seed}", "run_0"),
        ("'run ${seed}'", "run 0"),
        ("", ""),
        ("a\\,b", "a,b"),
    ],
)
def test_values_that_hydra_knows_keep_their_meaning(monkeypatch, tmp_path, text, value):
    arguments = ["--cfg", "job", "--resolve", f"data.image_root={text}"]
    outcome = run_here(monkeypatch, tmp_path, *arguments)
    assert outcome.end == "", outcome.end
    assert yaml.safe_load(outcome.printed)["data"]["image_root"] == value


@pytest.mark.parametrize("field", ["ckpt_path", "model.checkpoint_path", "data.val_list"])
def test_null_is_nothing(monkeypatch, tmp_path, field):
    config = printed_config(monkeypatch, tmp_path, f"{field}=null")
    for key in field.split("."):
        config = config[key]
    assert config is None


def test_lists_and_numbers_keep_their_meaning(monkeypatch, tmp_path):
    config = printed_config(
        monkeypatch, tmp_path, "optimizer.betas=[0.8,0.9]", "model.trainable_modules=[memory]",
        "swanlab.tags=[a, 'b c']", "trainer.val_check_interval=5", "logger=[csv,tensorboard]",
    )  # fmt: skip
    assert config["optimizer"]["betas"] == [0.8, 0.9]
    assert config["model"]["trainable_modules"] == ["memory"]
    assert config["swanlab"]["tags"] == ["a", "b c"]
    assert config["trainer"]["val_check_interval"] == 5
    assert config["logger"] == ["csv", "tensorboard"]


@pytest.fixture
def home(monkeypatch, tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_tilde_is_home_for_the_check(folder, home, quote):
    write_set(home)
    overrides = ["data=vos_folder", "data.num_frames=2", "data.num_workers=0"]
    check(folder, "model.image_size=64", *overrides, f"data.root={quote}~{quote}").went_well()


def test_a_tilde_is_home_in_lists_and_json_files(folder, home):
    made = write_set(folder, "coco_video")
    (folder / "frames").rename(home / "frames")
    (folder / "train.json").rename(home / "train.json")
    overrides = ["data=coco_video", "data.train_annotations=~/train.json"]
    overrides += ["data.image_root=~/frames", "data.num_frames=2", "data.num_workers=0"]
    check(folder, "model.image_size=64", *overrides).went_well()
    assert made


@pytest.mark.parametrize(
    ("field", "others"),
    [
        ("ckpt_path", []),
        ("model.checkpoint_path", []),
        ("data.root", ["data=vos_folder"]),
        ("data.root", ["data=sav"]),
        ("data.root", ["data=png_folders"]),
        ("data.train_annotations", ["data=coco_video"]),
    ],
)
def test_a_tilde_is_home_for_training(monkeypatch, tmp_path, home, field, others):
    outcome = run_here(monkeypatch, tmp_path, *TINY, *others, f"{field}=~/none here")
    outcome.is_refused(field, "none here", "does not exist")
    # whether the message repeats what was typed or what it stands for, home is where it looked
    (home / "none here").write_bytes(b"text")
    assert (
        "does not exist"
        not in run_here(monkeypatch, tmp_path, *TINY, *others, f"{field}=~/none here").end
    )


def test_a_tilde_is_home_for_what_is_written(monkeypatch, tmp_path, home):
    outcome = run_here(
        monkeypatch, tmp_path, *TINY, "logger=swanlab", "swanlab.log_dir=~/logs",
        "trainer.limit_val_batches=0",
    )  # fmt: skip
    outcome.went_well()
    assert list((home / "logs").glob("run-*"))


def sweep(monkeypatch, tmp_path, *arguments):
    options = ["--multirun", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    return run_here(monkeypatch, tmp_path, *options, "data=vos_folder", *arguments)


def test_a_comma_separates_the_values_of_a_sweep(monkeypatch, tmp_path):
    roots = f"{tmp_path}/none1,{tmp_path}/none2"
    outcome = sweep(monkeypatch, tmp_path, f"data.root={roots}")
    outcome.is_refused("none1 does not exist")
    assert "none2" not in outcome.end


def test_a_quoted_comma_is_part_of_a_name_in_a_sweep(monkeypatch, tmp_path):
    outcome = sweep(monkeypatch, tmp_path, f"data.root='{tmp_path}/x/a,b'")
    outcome.is_refused("x/a,b does not exist")


def test_a_sweep_takes_names_without_quotes_too(monkeypatch, tmp_path):
    outcome = sweep(monkeypatch, tmp_path, f"data.root={tmp_path}/run=1 (2),{tmp_path}/other")
    outcome.is_refused("run=1 (2) does not exist")


@pytest.mark.parametrize("options", [["--multirun"], ["-m"]])
@pytest.mark.parametrize("value", ["-1", "abc"])
def test_each_value_of_a_sweep_is_checked_before_its_first_job(
    monkeypatch, tmp_path, options, value
):
    outcome = run_here(
        monkeypatch, tmp_path, *TINY, *options, f"optimizer.lr=1e-3,{value}", "seed=1,2",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    outcome.is_refused("optimizer.lr", value)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_over_half_a_name_says_that_commas_are_quoted(monkeypatch, tmp_path):
    (tmp_path / "a,b").mkdir()
    outcome = sweep(monkeypatch, tmp_path, f"data.root={tmp_path}/a,b")
    outcome.is_refused(("comma", ","), "quot")


def test_a_real_command_takes_a_name_as_the_shell_gives_it(tmp_path):
    missing = tmp_path / "视频 (1), run=1"
    for command in (["train.py"], ["-m", "core.data"]):
        ran = subprocess.run(
            [sys.executable, *command, "data=vos_folder", f"data.root={missing}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1
        said = ran.stderr.strip()
        assert said.startswith("error: "), said
        assert "\n" not in said
        assert f"{missing} does not exist" in said


MISTYPED = {
    "text for a number": ("optimizer.lr=abc", ["optimizer.lr", "abc"]),
    "fraction for a number of frames": ("data.num_frames=2.5", ["data.num_frames", "2.5"]),
    "nothing": ("data.num_frames=", ["data.num_frames"]),
    "list for a number": ("data.num_frames=[1,2]", ["data.num_frames"]),
    "null for a number": ("data.num_frames=null", ["data.num_frames"]),
    "sweep without --multirun": ("data.num_frames=2,3", ["data.num_frames", "--multirun"]),
    "half a bracket": ("optimizer.betas=[0.9", ["optimizer.betas"]),
    "half a quote": ("data.num_frames='2", ["data.num_frames"]),
    "bracket": ("trainer.max_steps=(", ["trainer.max_steps"]),
    "text for a switch": ("visualizations.enabled=maybe", ["visualizations.enabled", "maybe"]),
    "one number of two": ("optimizer.betas=[0.9]", ["optimizer.betas"]),
    "texts for numbers": ("optimizer.betas=[a,b]", ["optimizer.betas"]),
    "number for a section": ("data.augmentation=3", ["data.augmentation"]),
    "mapping for a text": ("model.prompt_type={a:1}", ["model.prompt_type"]),
    "unknown field": ("data.framse=3", ["data.framse"]),
    "added field": ("+data.extra=3", ["data.extra"]),
    "field of a field": ("data.num_frames.x=3", ["data.num_frames"]),
    "no equals sign": ("visualizations.enabled", ["visualizations.enabled"]),
    "no name": ("=3", ["=3"]),
    "deleted field": ("~data.num_frames", ["data.num_frames"]),
    "unknown interpolation": ("data.root=${nope}", ["nope"]),
    "interpolation to itself": ("seed=${seed}", ["seed"]),
    "huge seed": ("seed=99999999999999999999", ["seed"]),
    "negative seed": ("seed=-1", ["seed", "-1"]),
    "seed": ("seed=abc", ["seed", "abc"]),
    "logger": ("logger=3", ["logger"]),
    "loggers": ("logger=[csv,3]", ["logger"]),
    "mapping of loggers": ("logger={a:1}", ["logger"]),
    "group": ("data=nope", ["data=nope"]),
    "empty group": ("data=", ["data="]),
    "not a number": ("optimizer.lr=nan", ["optimizer.lr", "nan"]),
    "infinite": ("optimizer.lr=inf", ["optimizer.lr", "inf"]),
    "infinite weight": ("loss.loss_mask=nan", ["loss.loss_mask", "nan"]),
    "infinite time": ("swanlab.start_timeout_s=inf", ["swanlab.start_timeout_s", "inf"]),
    "no tag": ("swanlab.tags=a", ["swanlab.tags"]),
}


@pytest.mark.parametrize(("argument", "facts"), MISTYPED.values(), ids=MISTYPED)
def test_what_is_mistyped_ends_in_one_sentence(monkeypatch, tmp_path, argument, facts):
    outcome = run_here(monkeypatch, tmp_path, *TINY, "logger=csv", argument)
    outcome.is_refused(*facts)
    nothing_was_started(tmp_path)


@pytest.mark.parametrize(
    ("argument", "facts"), list(MISTYPED.values())[:12], ids=list(MISTYPED)[:12]
)
def test_what_is_mistyped_ends_the_check_in_one_sentence(folder, argument, facts):
    if argument.startswith("data.num_frames=2,3"):
        facts = facts[:1]
    check(folder, argument).is_refused(*facts)


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
NO_MPS = pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is a GPU of Apple")
NEEDS = {"gpu": (NO_GPU, NO_MPS), "cuda": NO_GPU, "strategy of GPUs": NO_GPU, "mps": NO_MPS}
EPOCHS = ["trainer=epochs", "trainer.max_steps=-1", "trainer.max_epochs=1"]
IMPOSSIBLE = {
    "gpu": (["trainer.accelerator=gpu"], ["trainer.accelerator", "gpu"]),
    "cuda": (["trainer.accelerator=cuda"], ["trainer.accelerator", "cuda"]),
    "mps": (["trainer.accelerator=mps"], ["trainer.accelerator", "mps"]),
    "tpu": (["trainer.accelerator=tpu"], ["trainer.accelerator", "tpu"]),
    "unknown accelerator": (["trainer.accelerator=gpus"], ["trainer.accelerator", "gpus"]),
    "unknown strategy": (["trainer.strategy=ddpp"], ["trainer.strategy", "ddpp"]),
    "strategy not installed": (["trainer.strategy=deepspeed"], ["trainer.strategy", "deepspeed"]),
    "strategy of GPUs": (["trainer.strategy=fsdp"], ["trainer.strategy", "fsdp"]),
    "unknown answer to no memory": (
        ["trainer.on_out_of_memory=stop"],
        ["trainer.on_out_of_memory", "stop", "skip"],
    ),
    "average that never changes": (["trainer.ema_decay=1"], ["trainer.ema_decay", "1"]),
    "no device": (["trainer.devices=0"], ["trainer.devices", "0"]),
    "negative devices": (["trainer.devices=-2"], ["trainer.devices", "-2"]),
    "unknown devices": (["trainer.devices=many"], ["trainer.devices", "many"]),
    "empty devices": (["trainer.devices=[]"], ["trainer.devices"]),
    "devices as a fraction": (["trainer.devices=1.5"], ["trainer.devices", "1.5"]),
    "validation every 0 steps": (["trainer.val_check_interval=0"], ["trainer.val_check_interval"]),
    "validation every -1 steps": (
        ["trainer.val_check_interval=-1"],
        ["trainer.val_check_interval", "-1"],
    ),
    "validation every text": (
        ["trainer.val_check_interval=often"],
        ["trainer.val_check_interval", "often"],
    ),
    "validation twice an epoch, counted in steps": (
        ["trainer.val_check_interval=0.5", "trainer.check_val_every_n_epoch=null"],
        ["trainer.val_check_interval", "0.5", "trainer.check_val_every_n_epoch"],
    ),
    "validation every 1.5 epochs": (
        ["trainer.val_check_interval=1.5"],
        ["trainer.val_check_interval", "1.5"],
    ),
    "validation less often than an epoch": (
        [*EPOCHS, "trainer.val_check_interval=1000"],
        ["trainer.val_check_interval", "1000", "trainer.check_val_every_n_epoch"],
    ),
    "validation every 0 epochs": (
        ["trainer.check_val_every_n_epoch=0"],
        ["trainer.check_val_every_n_epoch", "0"],
    ),
    "no training": (["trainer.limit_train_batches=0"], ["trainer.limit_train_batches", "0"]),
    "1.5 of the training batches": (
        ["trainer.limit_train_batches=1.5"],
        ["trainer.limit_train_batches", "1.5"],
    ),
    "1.5 of the validation batches": (
        ["trainer.limit_val_batches=1.5"],
        ["trainer.limit_val_batches", "1.5"],
    ),
    "negative validation": (["trainer.limit_val_batches=-1"], ["trainer.limit_val_batches", "-1"]),
    "validation batches as text": (
        ["trainer.limit_val_batches=all"],
        ["trainer.limit_val_batches", "all"],
    ),
    "a share that is no training batch": (
        ["trainer.limit_train_batches=0.0001"],
        ["trainer.limit_train_batches=0.0001", "share", "number of batches"],
    ),
    "a share that is no validation batch": (
        ["trainer.limit_val_batches=0.01"],
        ["trainer.limit_val_batches=0.01", "share", "number of batches"],
    ),
    "validation before a step is complete": (
        ["trainer.accumulate_grad_batches=3", "trainer.val_check_interval=2"],
        ["trainer.val_check_interval=2", "trainer.accumulate_grad_batches", "3"],
    ),
    "a logger twice": (["logger=[csv,csv]"], ["logger", "csv"]),
    "early stopping without validation": (
        ["trainer.limit_val_batches=0", "trainer.early_stopping_patience=2"],
        ["trainer.early_stopping_patience", "trainer.limit_val_batches"],
    ),
    "mixed validation": (["trainer.val_prompts=[mixed]"], ["trainer.val_prompts", "mixed"]),
    "validation under no prompts": (["trainer.val_prompts=[]"], ["trainer.val_prompts", "[]"]),
    "all prompts every 0 validations": (
        ["trainer.val_prompts_every=0"],
        ["trainer.val_prompts_every", "0"],
    ),
    "negative clipping": (["trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val", "-1"]),
    "clipping at nan": (["trainer.gradient_clip_val=nan"], ["trainer.gradient_clip_val", "nan"]),
    "negative epochs": (
        ["trainer.max_steps=-1", "trainer.max_epochs=-2"],
        ["trainer.max_epochs", "-2"],
    ),
    "no epoch": (["trainer.max_epochs=0"], ["trainer.max_epochs", "0"]),
    "deterministic": (["trainer.deterministic=very"], ["trainer.deterministic", "very"]),
    "fast_dev_run": (["trainer.fast_dev_run=-1"], ["trainer.fast_dev_run", "-1"]),
    "fast_dev_run as text": (["trainer.fast_dev_run=yes"], ["trainer.fast_dev_run", "yes"]),
    "sanity steps": (["trainer.num_sanity_val_steps=-5"], ["trainer.num_sanity_val_steps", "-5"]),
}


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        pytest.param(*case, id=name, marks=NEEDS.get(name, ()))
        for name, case in IMPOSSIBLE.items()
    ],
)  # fmt: skip
def test_trainer_settings_that_cannot_work_end_in_one_sentence_before_a_run(
    monkeypatch, tmp_path, arguments, facts
):
    outcome = run_here(monkeypatch, tmp_path, *TINY, "logger=csv", *arguments)
    outcome.is_refused(*facts)
    nothing_was_started(tmp_path)


SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "finetune", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
}  # fmt: skip


def test_tasks_of_slurm_that_are_not_told_per_node_end_in_one_sentence(monkeypatch, tmp_path):
    for name, value in (SLURM | {"SLURM_NTASKS": "4"}).items():
        monkeypatch.setenv(name, value)
    outcome = run_here(monkeypatch, tmp_path, *TINY, "logger=csv")
    outcome.is_refused("--ntasks-per-node")
    nothing_was_started(tmp_path)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"},
    ],
    ids=["one task", "tasks per node", "by hand"],
)
def test_jobs_of_slurm_that_can_work_do(monkeypatch, tmp_path, environment):
    for name, value in (SLURM | environment).items():
        monkeypatch.setenv(name, value)
    run_here(monkeypatch, tmp_path, *TINY, "logger=csv").went_well()


POSSIBLE = {
    "val_check_interval as a fraction of an epoch": [
        "trainer.val_check_interval=0.5",
        "trainer.check_val_every_n_epoch=1",
    ],
    "val_check_interval of a whole epoch": [
        "trainer.val_check_interval=1.0",
        "trainer.check_val_every_n_epoch=1",
    ],
    "val_check_interval longer than an epoch, counted in steps": [
        "trainer.val_check_interval=6",
        "trainer.check_val_every_n_epoch=null",
    ],
    "no validation": ["trainer.limit_val_batches=0"],
    "no clipping": ["trainer.gradient_clip_val=null"],
    "all validation batches": ["trainer.limit_val_batches=1.0"],
    "a whole number of validation batches": ["trainer.limit_val_batches=2.0"],
    "fast_dev_run": ["trainer.fast_dev_run=true"],
    "no logger": ["logger=null"],
}


@pytest.mark.parametrize("arguments", POSSIBLE.values(), ids=POSSIBLE)
def test_trainer_settings_that_look_odd_and_work(monkeypatch, tmp_path, arguments):
    run_here(monkeypatch, tmp_path, *TINY, "logger=csv", *arguments).went_well()


UNFIT = {
    "project with a space": ("swanlab.project='my project'", "swanlab.project"),
    "project with a slash": ("swanlab.project=team/videos", "swanlab.project"),
    "Chinese project": ("swanlab.project=视频", "swanlab.project"),
    "empty project": ("swanlab.project=''", "swanlab.project"),
    "long project": (f"swanlab.project={'x' * 101}", "swanlab.project"),
    "workspace with a space": ("swanlab.workspace='my team'", "swanlab.workspace"),
    "long workspace": (f"swanlab.workspace={'x' * 26}", "swanlab.workspace"),
    "id with a slash": ("swanlab.id=a/b", "swanlab.id"),
    "empty id": ("swanlab.id=''", "swanlab.id"),
    "long name": (f"swanlab.experiment_name={'x' * 513}", "swanlab.experiment_name"),
    "long description": (f"swanlab.description={'x' * 1025}", "swanlab.description"),
    "too many tags": (f"swanlab.tags=[{','.join(map(str, range(31)))}]", "swanlab.tags"),
}


@pytest.mark.parametrize(("argument", "field"), UNFIT.values(), ids=UNFIT)
def test_what_swanlab_does_not_take_is_refused_before_training(
    monkeypatch, tmp_path, argument, field
):
    outcome = run_here(monkeypatch, tmp_path, *TINY, "logger=swanlab", argument)
    outcome.is_refused(field)
    nothing_was_started(tmp_path)


def test_what_swanlab_takes_is_taken(monkeypatch, tmp_path):
    outcome = run_here(
        monkeypatch, tmp_path, *TINY, "logger=swanlab", "swanlab.project=my_project-2.0+a",
        "swanlab.experiment_name='first try, 手术'", "swanlab.description='a: b'",
        "swanlab.tags=[a b,c]", "visualizations.enabled=true",
    )  # fmt: skip
    outcome.went_well()
    assert len(list(tmp_path.glob("swanlog/run-*/media/image/*.png"))) == 4


def without_pictures(folder, case) -> list[str]:
    """Arguments of a run that was asked for pictures and has nothing that takes one."""
    (folder / "a_file").write_text("x")
    return {
        "csv": ["logger=csv"],
        "none": ["logger=null"],
        "SwanLab cannot start": ["logger=swanlab", f"swanlab.log_dir={folder / 'a_file'}"],
        "SwanLab is disabled": ["logger=swanlab", "swanlab.mode=disabled"],
    }[case]


CASES = ["csv", "none", "SwanLab cannot start", "SwanLab is disabled"]
ASKED = [*TINY, "visualizations.enabled=true"]
MISSED = ("picture", ("no ", "not ", "none", "nowhere", "without"))


@pytest.mark.parametrize("case", CASES)
def test_a_run_without_the_pictures_it_was_asked_for_says_so(monkeypatch, tmp_path, case):
    outcome = run_here(
        monkeypatch, tmp_path, *ASKED, *without_run_book(), *without_pictures(tmp_path, case)
    )
    outcome.went_well()
    assert any(line.startswith("WARNING") and "picture" in line for line in outcome.lines)
    said = "\n".join([outcome.printed, *outcome.lines])
    last = [line for line in said.splitlines() if line.strip()][-8:]
    assert any(
        "picture" in line and any(word in line.lower() for word in MISSED[1]) for line in last
    ), last


@pytest.mark.parametrize("case", CASES)
def test_strict_ends_a_run_without_the_pictures_it_was_asked_for(monkeypatch, tmp_path, case):
    outcome = run_here(
        monkeypatch, tmp_path, *ASKED, *without_run_book(), "visualizations.strict=true",
        *without_pictures(tmp_path, case),
    )  # fmt: skip
    outcome.is_refused("visualizations.strict", "picture")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_strict_lets_a_run_with_pictures_pass(monkeypatch, tmp_path):
    strict = ["visualizations.strict=true", "logger=tensorboard"]
    run_here(monkeypatch, tmp_path, *ASKED, *strict).went_well()


def test_strict_does_not_matter_where_no_pictures_were_asked_for(monkeypatch, tmp_path):
    strict = ["visualizations.strict=true", "logger=csv"]
    run_here(monkeypatch, tmp_path, *TINY, *strict).went_well()


def test_a_run_that_was_not_asked_for_pictures_says_nothing_of_them(monkeypatch, tmp_path):
    outcome = run_here(monkeypatch, tmp_path, *TINY, "logger=csv")
    outcome.went_well()
    assert not outcome.says("picture")


def test_every_field_of_the_trainer_is_tried():
    tried = {argument.split("=")[0] for case in IMPOSSIBLE.values() for argument in case[0]}
    own = {f"trainer.{name}" for name in vars(TrainerConfig())}
    checked_elsewhere = {
        "trainer.max_steps", "trainer.num_nodes", "trainer.precision", "trainer.validate_first",
        "trainer.accumulate_grad_batches", "trainer.log_every_n_steps",
        "trainer.enable_progress_bar", "trainer.checkpoint_every_n_steps",
        "trainer.max_skipped_in_a_row",
    }  # fmt: skip
    assert own - tried <= checked_elsewhere


ODD = [
    "", "null", "None", "0", "-1", "1", "2", "0.5", "1.5", "abc", "true", "false", "[]", "[1,2]",
    "[a]", "[[1]]", "{}", "{a:1}", "1e-3", "nan", "inf", "-inf", "'x'", "a b", "a,b", "(", ")", "[",
    "'", '"', "视频", "~", "~/x", "/", ".", "..", "/dev/null", "${seed}", "${nope}", "${", "=",
    "a=b", "#", "\\", "a\nb", "%", "auto", "best", "@", "1_0", "0x1", "+1", "x" * 5000,
    "!!python/name:os.system", "${oc.env:HOME}", "99999999999999999999", "1e400", "$(id)", "\ud800",
]  # fmt: skip
# Most settings are numbers or switches: these get past the first look.
NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "1.5", "1e-9", "nan", "inf", "null", "true", "false"]
# What would start processes or build a model for minutes is not tried.
LEFT_OUT = {"trainer.devices": {"2", "3", "[1,2]"}, "trainer.num_nodes": {"2", "3"}}
SECTIONS = [
    [], ["data=vos_folder", "data.root={0}"], ["data=png_folders", "data.root={0}"],
    ["data=sav", "data.root={0}"], ["data=coco_video", "data.train_annotations={0}"],
    ["trainer=epochs"], ["optimizer=finetune"], ["visualizations.enabled=true"],
]  # fmt: skip


def odd_command(rng: random.Random, folder: Path) -> list[str]:
    """Return arguments with the names of settings and any values, some beside a data set."""
    arguments = [item.format(folder) for item in rng.choice(SECTIONS)]
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(_field_names(Config))
        values = NUMBERS if rng.random() < 0.5 else ODD
        values = [value for value in values if value not in LEFT_OUT.get(name, ())]
        prefix = rng.choice(["+", "++", "~"]) if rng.random() < 0.1 else ""
        arguments.append(f"{prefix}{name}={rng.choice(values)}")
    return arguments


def end_before_training(folder: Path, *arguments: str) -> str:
    """Do what train.py does before it trains; return what it ends with, empty where it goes on."""
    try:
        overrides = prepare([*arguments])
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = to_config(compose("config", overrides))
        build(config, folder / "run")
    except UserError as error:
        return f"error: {error}"
    except SystemExit as error:
        return str(error.code)
    except Exception as error:
        return f"Traceback: {type(error).__name__}: {error}"
    return ""


@pytest.fixture
def settings_of_torch():
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.fuzz
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2))]
)
def test_odd_command_lines_can_be_trained_or_end_in_one_sentence(tmp_path, settings_of_torch, part):
    write_set(tmp_path / "set", num_frames=8)
    faults = []
    with working_in(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(100 * part, 100 * part + 100):
            arguments = odd_command(random.Random(seed), tmp_path / "set")
            end = end_before_training(tmp_path, *TINY, *arguments).strip()
            torch.use_deterministic_algorithms(False)
            if end and (not end.startswith("error: ") or "\n" in end):
                faults.append((seed, arguments, end[:300]))
    assert not faults, f"{len(faults)} of 100:\n" + "\n".join(map(str, faults))
