"""train.py as a user calls it: command lines, sweeps, stored files and clear refusals."""

import csv
import logging
import runpy
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from books import read_runs
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from PIL import Image
from processes import REPOSITORY, SLURM, TINY, png_files, run_apart, run_here
from scenes import label_map, make_video, save_mask

from core.config import Config, DataConfig, ModelConfig, SyntheticConfig
from core.data import VideoDataModule
from core.export import loading_code
from core.metrics.doctor import Doctor
from core.run import describe, say_how_to_go_on


def train_py(name):
    """Return a function of train.py."""
    return runpy.run_path(str(REPOSITORY / "train.py"))[name]


@pytest.mark.parametrize(
    ("arguments", "num_rows"),
    [
        (["visualizations.enabled=true"], 4),
        (
            [
                "visualizations.enabled=true",
                "visualizations.every_n_steps=100",
                "visualizations.max_frames=3",
            ],
            3,
        ),
        (["visualizations.enabled=true", "visualizations.num_categories=10"], 4),
    ],
)
def test_the_command_lines_of_the_plan_run(monkeypatch, tmp_path, caplog, arguments, num_rows):
    caplog.set_level(logging.INFO)
    assert run_here(monkeypatch, tmp_path, *TINY, "data.num_frames=4", *arguments) == ""
    written = png_files(tmp_path / "swanlog")
    # A sheet of each stage; strips and IoU by distance of the validated objects are less high.
    rows = [(Image.open(path).height - 80) // 256 for path in written]
    assert sorted(rows) == [0, 1, num_rows, num_rows]
    said = caplog.text
    assert said.count(f"run         {tmp_path / 'run'}\n") == 2
    assert said.count("\nval/iou     ") == said.count("\n  copying   ") == 1
    assert "view with: make dashboard" in said
    page = tmp_path / "run" / "run.html"
    assert f"run book    {page}\n" in said
    assert str(tmp_path) not in page.read_text()
    code = tmp_path / "run" / "weights" / "load.py"
    assert f"load with   {code}" in said
    lines = loading_code(code.with_name("best.pt"), ModelConfig(image_size=64), beside=True)
    assert code.read_text() == f"{lines}\n"
    assert str(tmp_path) not in lines
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for argument in arguments:
        name, value = argument.removeprefix("visualizations.").split("=")
        assert stored["visualizations"][name] == yaml.safe_load(value)
    assert stored["model"]["image_size"] == 64
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_start_and_end_tell_where_other_loggers_write(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert run_here(monkeypatch, tmp_path, *TINY, "logger=[tensorboard,csv]") == ""
    said = caplog.text
    metrics = tmp_path / "run" / "csv" / "metrics.csv"
    assert said.count(f"csv         {metrics}\n") == 2
    assert metrics.is_file()
    assert said.count(f"tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}\n") == 2
    assert "make dashboard" not in said


@pytest.mark.long
def test_a_sweep_writes_one_swanlab_run_per_job(tmp_path):
    sweep = tmp_path / "sweep"
    result = run_apart(
        "--multirun", *TINY, "seed=1,0", "visualizations.enabled=true",
        f"swanlab.log_dir={tmp_path / 'swanlog'}", f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list((tmp_path / "swanlog").glob("run-*"))) == 2
    assert len(png_files(tmp_path / "swanlog")) == 8
    for job, seed in (("0", 1), ("1", 0)):
        assert yaml.safe_load((sweep / job / "config.yaml").read_text())["seed"] == seed
        assert (sweep / job / "weights" / "last.pt").exists()
    runs = read_runs(sweep / "0", sweep / "1")
    assert ["seed", "1", "0"] in runs[0]["settings"]
    assert all(name != "seed" for name, *_ in runs[1]["settings"])  # 0 is the default
    assert '"title":"sweep/0 · sweep/1"' in (sweep / "comparison.html").read_text()


def test_cfg_job_prints_the_configuration_and_trains_nothing(monkeypatch, tmp_path, capsys):
    assert run_here(monkeypatch, tmp_path, "--cfg", "job", "seed=7") == ""
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7
    assert not (tmp_path / "run").exists()


def test_without_sam2_one_sentence_says_what_to_do(tmp_path):
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('sam2', 'training'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())"
    )
    result = run_apart(f"hydra.run.dir={tmp_path}", before=block)
    assert result.returncode == 1
    assert result.stderr.strip().count("\n") == 0
    assert "the package sam2 is not installed: run `make setup`" in result.stderr


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of data sets, lists and checkpoints, most of them unusable."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.save({"model": {"weight": torch.ones(3)}}, folder / "other.pt")
    (folder / "damaged.pt").write_bytes(b"no checkpoint")
    (folder / "empty.txt").write_text("\n")
    (folder / "a_file").write_text("x")
    for data_set in ("fine", "sizes", "no_masks"):
        for name in "ab":
            make_video(folder / data_set, name, objects=((1,),) * 4)
    for path in (folder / "sizes" / "Annotations" / "b").iterdir():
        save_mask(path, label_map(1)[:, :16])
    for path in (folder / "no_masks" / "Annotations").glob("*/*"):
        path.unlink()
    return folder


BAD_INPUTS = {
    "missing data set": ("data=vos_folder data.root={}/nope", "nope does not exist"),
    "data set is a file": ("data=vos_folder data.root={}/a_file", "is not a folder"),
    "no root": ("data=vos_folder", "data.root must be"),
    "frames without masks": ("data=vos_folder data.root={}/no_masks", "have no masks"),
    "mask of another size": ("data=vos_folder data.root={}/sizes", "16 x 24 pixels, expected"),
    "empty split": (
        "data=vos_folder data.root={0}/fine data.val_list={0}/empty.txt",
        "empty.txt is empty, expected one video name per line",
    ),
    "clips too long": (
        "data=vos_folder data.root={}/fine data.num_frames=9",
        "data.num_frames=9",
    ),
    "checkpoint of another model": ("model.checkpoint_path={}/other.pt", "does not fit the model"),
    "damaged checkpoint": ("model.checkpoint_path={}/damaged.pt", "damaged"),
    "missing checkpoint": ("model.checkpoint_path=nope.pt", "nope.pt does not exist"),
    "nothing to resume": ("ckpt_path=nope.ckpt", "ckpt_path=nope.ckpt does not exist"),
    "unknown module": (
        "model.trainable_modules=[memory_attentoin]",
        "did you mean 'memory_attention'?",
    ),
    "unknown prompt type": ("model.prompt_type=clik", "model.prompt_type must be one of"),
    "no module to train": (
        "model.trainable_modules=[sam_prompt_encoder.mask_downscaling.2]",
        "has no parameters to train",
    ),
    "seed out of bounds": ("seed=-1", "seed must be between 0 and 4294967295, got -1"),
    "unknown accelerator": ("trainer.accelerator=abacus", "accelerator"),
    "negative interval": (
        "visualizations.every_n_steps=-5",
        "visualizations.every_n_steps must be at least 1, got -5",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_ends_in_one_sentence_before_training(
    monkeypatch, tmp_path, inputs, arguments, words
):
    said = run_here(monkeypatch, tmp_path, *TINY, *arguments.format(inputs).split())
    assert said.startswith("error: ")
    assert words in said
    assert "\n" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "swanlog").exists()


def test_an_invalid_setting_ends_the_process_with_status_one(tmp_path):
    result = run_apart("visualizations.every_n_steps=0", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 1
    assert result.stderr.strip() == "error: visualizations.every_n_steps must be at least 1, got 0"


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_pictures_are_logged_whatever_the_console_can_show(tmp_path, encoding):
    before = (
        "import sys\n"
        f"sys.stdout.reconfigure(encoding={encoding!r}, errors='strict')\n"
        f"sys.stderr.reconfigure(encoding={encoding!r}, errors='strict')"
    )
    result = run_apart(
        *TINY, "visualizations.enabled=true", "logger=swanlab",
        f"swanlab.log_dir={tmp_path / 'swanlog'}", f"hydra.run.dir={tmp_path / 'run'}",
        before=before,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(png_files(tmp_path / "swanlog")) == 4


def test_an_error_in_training_comes_with_its_traceback(tmp_path):
    break_it = (
        "from core.official import import_sam2; import_sam2()\n"
        "from core.trainer import SAM2LightningModule\n"
        "def fail(*args): raise ValueError('injected')\n"
        "SAM2LightningModule.training_step = fail"
    )
    result = run_apart(*TINY, "logger=null", f"hydra.run.dir={tmp_path}", before=break_it)
    assert result.returncode == 1
    assert "error: injected" not in result.stderr
    for text in (result.stderr, (tmp_path / "train.log").read_text()):
        assert text.count("in fail") == 1
        assert text.count("ValueError: injected") == 1
    assert f"run         {tmp_path}\n" in result.stdout


BROKEN_LIBRARIES = {
    "torch": ("torch.nn.Parameter.requires_grad_ = fail", []),
    "its loader": (
        "torch.utils.data.DataLoader.__init__ = fail",
        ["data=vos_folder", "data.root={}/fine"],
    ),
}


@pytest.mark.parametrize(
    ("break_it", "arguments"),
    [
        BROKEN_LIBRARIES["torch"],
        pytest.param(*BROKEN_LIBRARIES["its loader"], marks=pytest.mark.long),
    ],
    ids=BROKEN_LIBRARIES,
)
def test_an_error_that_is_not_the_users_comes_with_its_traceback_before_training_too(
    tmp_path, inputs, break_it, arguments
):
    before = f"import torch\ndef fail(*args, **kwargs): raise ValueError('injected')\n{break_it}"
    arguments = [argument.format(inputs) for argument in arguments]
    result = run_apart(*TINY, *arguments, f"hydra.run.dir={tmp_path}", before=before)
    assert result.returncode == 1
    assert "error: injected" not in result.stderr
    assert "in fail" in result.stderr
    assert "ValueError: injected" in result.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_an_interrupted_run_says_how_to_go_on(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    say_how_to_go_on(tmp_path)
    said = caplog.text
    assert f"ckpt_path={last}" in said
    assert f"python -m core.export {last}" in said


def test_a_typo_ends_the_process_with_the_nearest_name():
    result = run_apart("visualizations.enable=true")
    assert result.returncode == 1
    assert "did you mean visualizations.enabled?" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["trainer.precision=bf16-mixed"], marks=pytest.mark.long),
        ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=2"],
        pytest.param(
            ["model.activation_checkpointing=all", "model.prompt_type=point"],
            marks=pytest.mark.long,
        ),
        pytest.param(["model.compile_image_encoder=true"], marks=pytest.mark.long),
    ],
    ids=["bf16", "accumulation", "activation checkpointing", "compile"],
)
def test_options_of_scale_train_and_draw(monkeypatch, tmp_path, arguments):
    run = [*TINY, "visualizations.enabled=true", "logger=tensorboard", *arguments]
    assert run_here(monkeypatch, tmp_path, *run) == ""
    weights = torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=True)["model"]
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    keys = {"train/composites", "val/composites", "val/outcomes", "val/iou_by_distance"}
    assert set(events.Tags()["images"]) == keys


def steps_in(path, column="step") -> list[int]:
    """Return the steps of the rows that have a value in `column`."""
    with open(path) as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[column]]


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_several_processes_find_unused_parameters(tmp_path, strategy):
    config = Config(model=ModelConfig(image_size=64), logger=None)
    config.trainer.accelerator, config.trainer.devices = "cpu", 2
    config.trainer.strategy = strategy
    _, _, trainer = train_py("build")(config, tmp_path)
    assert (type(trainer.strategy), trainer.world_size) == (DDPStrategy, 2)
    assert trainer.strategy._ddp_kwargs["find_unused_parameters"] is True


def test_one_process_is_no_ddp(tmp_path):
    config = Config(model=ModelConfig(image_size=64), logger=None)
    config.trainer.accelerator = "cpu"
    _, _, trainer = train_py("build")(config, tmp_path)
    assert type(trainer.strategy) is SingleDeviceStrategy


@pytest.mark.parametrize(
    ("architecture", "ckpt_path", "weights", "warns"),
    [
        ("sam2.1_hiera_small", None, "random", True),
        ("sam2.1_hiera_small", "hpc", "from the checkpoint that is resumed", False),
        ("tiny", None, "random", False),
    ],
)
def test_the_start_says_what_is_trained_on_what(
    architecture, ckpt_path, weights, warns, caplog, tmp_path
):
    caplog.set_level(logging.INFO)
    model = torch.nn.Linear(1000, 1499)
    model.bias.requires_grad_(False)
    module = SimpleNamespace(load_report=None, model=model)
    clips = DataConfig(synthetic=SyntheticConfig(num_train_clips=30, num_val_clips=7))
    data = VideoDataModule(clips, 64, seed=0)
    data.setup()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=strategy, world_size=2)
    config = Config(model=ModelConfig(architecture=architecture, image_size=64))
    describe(config, tmp_path, module, data, trainer, ckpt_path)
    said = caplog.records[0].getMessage().splitlines()
    assert said == [
        "data        synthetic: 30 training clips, 7 validation clips",
        "            4 frames of 64 px, batches of 2",
        f"model       {architecture}, 1.5 M parameters, 1.5 M of them trained",
        f"weights     {weights}",
        "device      2 processes, each on cpu with 1 thread",
        f"run         {tmp_path}",
    ]
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [message.endswith("set model.checkpoint_path") for message in warned] == [True] * warns


@pytest.mark.long
def test_a_requeued_slurm_job_goes_on_in_its_directory(monkeypatch, tmp_path):
    options = ["logger=csv", "trainer.log_every_n_steps=1"]
    assert run_here(monkeypatch, tmp_path, *TINY, *options, "trainer.max_steps=2") == ""
    run = tmp_path / "run"
    shutil.move(run / "checkpoints" / "last.ckpt", run / "hpc_ckpt_1.ckpt")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    again = [
        *options, "trainer.max_steps=4", "trainer.val_check_interval=9",
        "trainer.validate_first=true",
    ]  # fmt: skip
    # What the job was started with is older than what it left when it was requeued.
    older = shutil.copy(next((run / "checkpoints").glob("best-step*")), tmp_path / "older.ckpt")
    assert run_here(monkeypatch, tmp_path, *TINY, *again, f"ckpt_path={older}") == ""
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["global_step"] == 4
    assert min(steps_in(run / "csv" / "metrics.csv")) == 0  # of the first start
    # Neither trained nor measured again from the start.
    assert min(steps_in(run / "csv" / "1" / "metrics.csv")) == 2


def test_the_doctor_knows_both_learning_rates(monkeypatch, tmp_path):
    rates = []

    def note(self, case):
        rates.append((case.lr, case.image_encoder_lr))
        return ""

    monkeypatch.setattr(Doctor, "diagnose", note)
    options = ["optimizer.lr=5e-6", "optimizer.image_encoder_lr=3e-6", "logger=csv"]
    assert run_here(monkeypatch, tmp_path, *TINY, *options) == ""
    assert set(rates) == {(5e-6, 3e-6)}


def test_an_epoch_is_validated_at_its_end(monkeypatch, tmp_path):
    options = [
        "trainer=epochs", "trainer.max_epochs=2", "data.synthetic.num_train_clips=3", "logger=csv",
        "trainer.max_steps=-1", "trainer.val_check_interval=null",
    ]  # fmt: skip
    assert run_here(monkeypatch, tmp_path, *TINY, *options) == ""
    # The third and the sixth step.
    assert steps_in(tmp_path / "run" / "csv" / "metrics.csv", "val/iou") == [2, 5]
