"""What is found out about weights: which file is taken, of which model and run it is."""

import dataclasses
import os

import pytest
import torch
from omegaconf import OmegaConf
from random_weights import IMAGE_SIZE, write_random_weights

from core.checks import UserError
from core.config import Config, ModelConfig, config_of
from core.model.build import build_model
from core.model.known_weights import KnownWeights
from core.model.loading import read_weights
from core.model.weights import CheckpointError
from core.official import import_sam2
from core.resume import check_resumable

OWN = dataclasses.asdict(Config(model=ModelConfig(image_size=IMAGE_SIZE, prompt_type="bbox")))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import_sam2()
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def released(weights, tmp_path):
    """The file in a folder `checkpoints`, as Meta's repository has it."""
    path = tmp_path / "checkpoints" / "released.pt"
    path.parent.mkdir()
    path.write_bytes(weights.read_bytes())
    return path


def find(path, given=None, **more):
    return KnownWeights.find(str(path), given or ModelConfig(), **more)


def checkpoint_with(path, weights, config):
    state = {f"model.{name}": value for name, value in read_weights(weights).weights.items()}
    torch.save({"state_dict": state, "hyper_parameters": {"config": config}}, path)
    return path


# Some have sections of the same names.
FOREIGN = {
    "one setting": {"project": "x"},
    "no mappings": {"model": "sam2", "data": "coco"},
    "some sections": {"model": {"name": "unet"}, "data": {"root": "x"}, "trainer": {"gpus": 2}},
    "a section that is none": OWN | {"data": "coco"},
    "a list": ["model", "data"],
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_another_program_stores_is_left_alone(weights, released, tmp_path, content):
    OmegaConf.save(OmegaConf.create(content), tmp_path / "config.yaml")
    for path in (released, checkpoint_with(tmp_path / "theirs.ckpt", weights, content)):
        found = find(path)
        assert (found.model.architecture, found.config, found.run_dir) == ("tiny", None, None)
        assert found.read().weights.keys() == read_weights(weights).weights.keys()


@pytest.mark.parametrize("theirs", [None, "x", {"optimizer": "adam"}, {"model": "tiny"}])
def test_a_training_of_another_program_is_not_resumed(weights, tmp_path, theirs):
    config = Config(model=ModelConfig(image_size=IMAGE_SIZE), ckpt_path=str(tmp_path / "a.ckpt"))
    content = torch.load(checkpoint_with(tmp_path / "a.ckpt", weights, theirs))
    names = ("pytorch-lightning_version", "epoch", "global_step", "loops", "lr_schedulers")
    torch.save(dict.fromkeys(names) | content | {"optimizer_states": []}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="does not fit the optimizer of this run"):
        check_resumable(config, build_model(config.model))


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:some.Class {}", "7"])
def test_a_config_that_cannot_be_read_is_said_and_left_alone(released, tmp_path, caplog, text):
    (tmp_path / "config.yaml").write_text(text)
    assert find(released).config is None
    assert "config.yaml cannot be read, the settings of the run are unknown" in caplog.text


def test_a_run_and_a_checkpoint_tell_their_settings(weights, released, tmp_path):
    OmegaConf.save(OmegaConf.create(OWN), tmp_path / "config.yaml")
    found = find(released)
    assert (found.config, found.model.prompt_type) == (config_of(OWN), "bbox")
    assert found.run_dir == tmp_path
    # of a run that was there before
    earlier = OWN | {"seed": 7}
    found = find(checkpoint_with(tmp_path / "checkpoints" / "last.ckpt", weights, earlier))
    assert found.config.seed == 7


def test_a_setting_that_is_not_known_any_more_spoils_its_own_section_alone(weights, tmp_path):
    stored = OWN | {"data": OWN["data"] | {"gone": 1}}
    found = find(checkpoint_with(tmp_path / "last.ckpt", weights, stored))
    assert found.model.image_size == IMAGE_SIZE
    with pytest.raises(CheckpointError, match=r"last\.ckpt: the settings in it cannot .* 'gone'"):
        found.config  # noqa: B018
    stored = OWN | {"model": OWN["model"] | {"gone": 1}}
    with pytest.raises(CheckpointError, match=r"last\.ckpt: the settings in it cannot .* 'gone'"):
        find(checkpoint_with(tmp_path / "last.ckpt", weights, stored))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"data": "coco"}, "data must be a mapping of settings, got 'coco'"),
        ({"model": {"lora": 8}}, r"model\.lora must be a mapping of settings, got 8"),
    ],
)
def test_a_section_that_is_no_mapping_is_refused(stored, message):
    with pytest.raises(UserError, match=message):
        config_of(stored)


def test_the_architecture_auto_is_what_is_found_out(released):
    given = ModelConfig(architecture="auto", image_size=96)
    found = find(released, given, chosen={"architecture", "image_size"})
    assert (found.model.architecture, found.model.image_size) == ("tiny", 96)


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        # from the oldest to the newest
        (["checkpoints/best-step90.ckpt", "checkpoints/last.ckpt", "weights/best.pt"], 2),
        (["weights/best.pt", "checkpoints/best-step900.ckpt", "checkpoints/last.ckpt"], 1),
        (["checkpoints/best-step90.ckpt", "weights/best.pt", "checkpoints/last.ckpt"], 1),
        (["checkpoints/best-step900.ckpt", "checkpoints/best-step1000.ckpt"], 1),
        (["weights/last.pt", "checkpoints/last.ckpt"], 1),
        (["checkpoints/last.ckpt", "weights/last.pt"], 1),
    ],
)
def test_a_run_s_newest_best_weights_are_taken(weights, tmp_path, files, taken):
    for age, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(weights.read_bytes())
        os.utime(path, (1000 + age, 1000 + age))
    assert find(tmp_path).path == tmp_path / files[taken]
