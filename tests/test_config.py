"""Configuration: every file composes, and what makes no sense is refused by name."""

import dataclasses
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from core.checks import UserError
from core.config import (
    CONFIG_DIR,
    Config,
    VisualizationsConfig,
    explain_typos,
    register_schema,
    to_config,
)

GROUP_FILES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONFIG_DIR.glob("*/*.yaml")
    if path.parent.name != "experiment"
)
EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
NEEDED = {
    "data=coco_video": ["data.train_annotations=a.json"],
    "data=youtube_vis": ["data.train_annotations=a.json"],
    "data=coco_images": ["data.train_annotations=a.json"],
    "data=vos_folder": ["data.root=d"],
    "data=png_folders": ["data.root=d"],
    "data=sav": ["data.root=d"],
    "data=sa1b": ["data.root=d"],
    "data=auto": ["data.root=d"],
    "data=mots": ["data.root=d"],
    "data=sources": ["data.sources=[{source: synthetic}]"],
    "surgical": ["data.train_annotations=a.json"],
    "images": ["data.train_annotations=a.json"],
    "vos": ["data.root=d"],
    "overfit_clip": ["data.root=d"],
    "two_sets": ["data.sources.0.root=d", "data.sources.1.root=d"],
}


def built(*overrides) -> Config:
    register_schema()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return to_config(compose("config", list(overrides)))


@pytest.mark.parametrize("choice", GROUP_FILES)
def test_every_group_file_composes_and_builds(choice):
    built(choice, *NEEDED.get(choice, []))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_with_visualisation_on(name):
    assert built(f"experiment={name}", *NEEDED[name]).visualizations.enabled


def test_the_experiments_are_what_they_say():
    surgical = built("experiment=surgical", *NEEDED["surgical"])
    assert (surgical.data.source, surgical.data.num_categories) == ("coco_video", None)
    assert surgical.trainer.precision == "bf16-mixed"
    assert built("experiment=surgical", "model.prompt_type=point", *NEEDED["surgical"])
    vos = built("experiment=vos", *NEEDED["vos"])
    assert vos.model.architecture == "sam2.1_hiera_tiny"
    assert (vos.optimizer.lr, vos.optimizer.image_encoder_lr) == (5e-6, 3e-6)
    images = built("experiment=images", *NEEDED["images"])
    assert (images.model.prompt_type, images.model.num_correction_points) == ("point", 7)
    others = built("experiment=images", "data=sa1b", "data.root=d")
    assert (others.data.source, others.data.num_frames) == ("sa1b", 1)
    overfit = built("experiment=overfit_clip", *NEEDED["overfit_clip"])
    assert (overfit.model.architecture, overfit.model.checkpoint_path) == ("tiny", None)


@pytest.mark.parametrize(("num_cores", "num_workers"), [(1, 1), (2, 2), (64, 4)])
def test_files_are_read_by_a_worker_per_core_and_four_at_most(monkeypatch, num_cores, num_workers):
    monkeypatch.setattr("core.config.num_cores", lambda: num_cores)
    for source in ("vos_folder", "png_folders", "sav", "coco_video"):
        data = built(f"data={source}", *NEEDED[f"data={source}"]).data
        assert data.num_workers == num_workers
    assert built().data.num_workers == 0
    assert built("data=sav", "data.root=d", "data.num_workers=0").data.num_workers == 0


def test_the_defaults_of_the_plan():
    assert dataclasses.asdict(built().visualizations) == dataclasses.asdict(VisualizationsConfig())
    section = VisualizationsConfig()
    assert (section.enabled, section.every_n_steps, section.max_frames) == (False, 200, 4)
    assert (section.max_videos, section.frame_stride, section.num_categories) == (1, 1, None)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("visualizatoins.enabled=true", "visualizations.enabled"),
        ("visualizations.every_n_step=5", "visualizations.every_n_steps"),
        ("data.num_frame=3", "data.num_frames"),
        ("data.augmentation.degree=3", "data.augmentation.degrees"),
        ("trainer.max_step=3", "trainer.max_steps"),
        ("loger=csv", "logger"),
        ("experiment=surgicl", "experiment=surgical"),
        ("model=tinny", "model=tiny"),
        ("data=vos_foldr", "data=vos_folder"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_valid_name(override, near):
    with pytest.raises(UserError, match=rf"did you mean {near}\?$"):
        explain_typos([override])


@pytest.mark.parametrize(
    "override",
    [
        "visualizations.enabled=true", "+data.root=d", "~ckpt_path=null", "model=tiny",
        "model=tiny,sam2.1_hiera_tiny", "hydra.run.dir=d", "--multirun", "~experiment",
        "data.augmentation.shear=3", "model=choice(tiny,sam2.1_hiera_tiny)",
    ],
)  # fmt: skip
def test_valid_overrides_pass_the_check_for_typos(override):
    explain_typos([override])


def test_null_is_no_file_of_a_group():
    with pytest.raises(UserError, match=r"^model=null: expected one of .*; ~model leaves it out$"):
        explain_typos(["model=null"])


@pytest.mark.parametrize("override", ["data.nothing=3", "visualizations.every=5"])
def test_an_unknown_key_fails_at_composition_too(override):
    with pytest.raises(ConfigCompositionException, match=r"Could not override|Key"):
        built(override)


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("model.image_size=large", "Integer"),
        ("visualizations.enabled=perhaps", "bool"),
        ("visualizations.max_overhead=[1]", "Float|not a"),
        ("optimizer.lr=fast", "Float"),
        ("data.num_frames=2.5", "Integer"),
        ("seed=null", "None|Optional"),
    ],
)
def test_a_wrong_type_fails_at_composition(override, kind):
    with pytest.raises(ConfigCompositionException) as caught:
        built(override)
    error, texts = caught.value, []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    assert any(any(word in text for word in kind.split("|")) for text in texts)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "visualizations.every_n_steps=-1",
            "visualizations.every_n_steps must be at least 1, got -1",
        ),
        (
            "visualizations.every_n_steps=0",
            "visualizations.every_n_steps must be at least 1, got 0",
        ),
        ("visualizations.panel_size=8", "visualizations.panel_size must be between 64 and 1024"),
        ("visualizations.max_overhead=0", "visualizations.max_overhead must be in (0, 1], got 0"),
        ("model.prompt_type=clicks", "model.prompt_type must be one of point, bbox, mask, mixed"),
        ("model.image_size=100", "model.image_size must be a multiple of 32, at least 64, got 100"),
        ("model.trainable_modules=3", "model.trainable_modules must be null, a preset"),
        ("data.val_fraction=1.5", "data.val_fraction must be in (0, 1), got 1.5"),
        ("data.num_frames=0", "data.num_frames must be at least 1, got 0"),
        ("data.val_num_frames=0", "data.val_num_frames must be null or at least 1, got 0"),
        (
            "trainer.precision=bf16-true",
            "trainer.precision must be one of 32-true, 32, bf16-mixed, bf16, 16-mixed, 16, got "
            "'bf16-true' (did you mean 'bf16-mixed'?)",
        ),
        ("data.batch_size=0", "data.batch_size must be at least 1, got 0"),
        ("data.augmentation.grayscale=2", "data.augmentation.grayscale must be a probability"),
        ("data.synthetic.texture=2", "data.synthetic.texture must be in [0, 1], got 2"),
        ("data=vos_folder", "data.root must be the data set's folder for data=vos_folder"),
        ("optimizer.lr=-1", "optimizer.lr must be greater than 0, got -1"),
        ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers in [0, 1), got [0.9]"),
        ("scheduler.warmup_fraction=1", "scheduler.warmup_fraction must be in [0, 1), got 1"),
        ("loss.loss_mask=-2", "loss.loss_mask must be at least 0, got -2"),
        ("trainer.max_steps=0", "trainer.max_steps must be at least 1, or -1 for no limit, got 0"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be at least 1"),
        ("swanlab.mode=cloud", "swanlab.mode must be one of local, online, offline, disabled"),
        (
            "logger=swanlb",
            "logger must be one of swanlab, wandb, tensorboard, csv, got 'swanlb' (did",
        ),
        ("logger=[csv,tensorbord]", "(did you mean 'tensorboard'?)"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match="must be") as caught:
        built(override)
    assert message in str(caught.value)


def test_no_dict_config_leaves_the_boundary():
    def plain(value) -> bool:
        if dataclasses.is_dataclass(value):
            return all(plain(getattr(value, field.name)) for field in dataclasses.fields(value))
        return not OmegaConf.is_config(value)

    assert plain(built("model.trainable_modules=[memory]", "swanlab.tags=[a]", "logger=[csv]"))


def settings(section) -> list[dataclasses.Field]:
    """Return the fields of a section and of the sections inside it."""
    found = []
    for field in dataclasses.fields(section):
        found += settings(field.type) if dataclasses.is_dataclass(field.type) else [field]
    return found


def test_every_field_is_documented_in_one_sentence():
    fields = settings(Config)
    assert len(fields) > 90
    for field in fields:
        description = field.metadata["description"]
        assert len(description) > 5, field.name
        assert "\n" not in description
        assert not description.endswith("."), field.name


def test_the_readme_lists_every_option_of_the_pictures_with_its_default():
    text = (CONFIG_DIR.parent / "README.md").read_text(encoding="utf-8")
    table = text.partition("| `visualizations.` |")[2].partition("\n\n")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    fields = dataclasses.fields(VisualizationsConfig)
    assert list(listed) == [field.name for field in fields]
    for field in fields:
        assert yaml.safe_load(listed[field.name].strip("`")) == field.default, field.name


def test_mask_prompts_leave_a_frame_to_track():
    message = r"model\.num_init_cond_frames must be at most 1 with data\.num_frames=2 and .*, got 2"
    for prompt_type in ("mask", "mixed"):
        with pytest.raises(ValueError, match=message):
            built(
                "model=sam2.1_hiera_tiny", "data.num_frames=2", f"model.prompt_type={prompt_type}"
            )
    assert built("model=sam2.1_hiera_tiny", "data.num_frames=2", "model.prompt_type=point")
