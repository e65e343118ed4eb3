"""Files of adapters: what they hold, which base they are for, and that they give the same masks."""

import dataclasses
import hashlib
import json
import shutil
import struct

import pytest
import torch
from hugging_face_names import ALL_POINTS, MATRICES, MATRIX, POINTS, RENAMED
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from random_weights import IMAGE_SIZE, write_random_weights
from safetensors import safe_open
from safetensors.torch import save_file
from scenes import make_batch
from videos import Disc, InMemory, draw

from core.config import Config, LoraConfig, ModelConfig
from core.evaluate.__main__ import main as evaluate
from core.export import export_checkpoint, export_folder, main
from core.model.adapters import put_on_base, read_adapters, weights_hash
from core.model.build import architecture_node, build_model
from core.model.loading import load_found, load_weights, read_weights
from core.model.lora import inject
from core.model.weights import CheckpointError
from core.official import import_sam2
from core.tracking.prompts import Prompt
from core.tracking.tracker import track
from core.tracking.weights import build_predictor, find
from core.trainer import SAM2LightningModule

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import_sam2()
    return write_random_weights(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base):
    """What a training with adapters, and of one module in full, leaves."""
    lora = LoraConfig(rank=2, modules=["decoder_memory"], alpha=1.0)
    model = ModelConfig(
        image_size=IMAGE_SIZE,
        checkpoint_path=str(base),
        lora=lora,
        trainable_modules=["obj_ptr_proj"],
    )
    module = SAM2LightningModule(Config(model=model))
    torch.manual_seed(5)
    with torch.no_grad():
        for value in module.model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    return module


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    stored = {"config": dataclasses.asdict(trained.config)}
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": stored}, path)
    return path


@pytest.fixture(scope="module")
def adapters(checkpoint):
    """The file, in a folder without its base."""
    return export_checkpoint(checkpoint, file_format="adapters")


def test_the_file_holds_what_was_trained_and_nothing_else(adapters, trained):
    expected = {name for name, value in trained.model.named_parameters() if value.requires_grad}
    assert adapters.name == "adapter_last.safetensors"
    with safe_open(adapters, framework="pt") as file:
        assert set(file.keys()) == expected
        metadata = file.metadata()
    for name, value in read_adapters(adapters).tensors().items():
        assert torch.equal(value, trained.model.state_dict()[name])
    assert metadata["base"] == "random.pt"
    assert "/" not in metadata["base"] + metadata["model"]
    assert json.loads(metadata["model"])["lora"]["rank"] == 2


def test_others_may_read_it_as_any_new_file(adapters, tmp_path):
    (tmp_path / "new").touch()
    assert adapters.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_on_its_base_it_is_the_trained_model(adapters, base, trained):
    found = put_on_base(read_adapters(adapters), str(base)).weights
    own = trained.model.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], value) for name, value in own.items())


def test_it_is_exported_as_its_checkpoint_is(adapters, base, checkpoint, tmp_path, capsys):
    assert main([str(adapters), str(tmp_path / "one.pt"), "--base", str(base)]) == 0
    assert "predictor = build_sam2_video_predictor" in capsys.readouterr().out
    other = read_weights(export_checkpoint(checkpoint, tmp_path / "other.pt")).weights
    one = read_weights(tmp_path / "one.pt").weights
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_a_base_beside_it_is_found(adapters, base, tmp_path):
    for path in (adapters, base):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = find(str(tmp_path / adapters.name), ModelConfig()).read().weights
    assert weights.keys() > read_weights(base).weights.keys()


def test_the_base_that_the_run_started_from_is_found(adapters, base, trained, tmp_path):
    """By all programs, in the run's folder, where the base does not lie beside the adapters."""
    (tmp_path / "weights").mkdir()
    path = shutil.copy(adapters, tmp_path / "weights")
    OmegaConf.save(OmegaConf.structured(trained.config), tmp_path / "config.yaml")
    assert find(path, ModelConfig()).base == str(base)
    weights = read_weights(export_checkpoint(path, tmp_path / "out.pt")).weights
    built = build_predictor(find(path, ModelConfig()), CPU).state_dict()
    assert weights.keys() == built.keys()
    assert all(torch.equal(built[name], value) for name, value in weights.items())


def test_a_missing_base_is_asked_for(adapters, base, capsys, tmp_path):
    assert main([str(adapters), str(tmp_path / "out.pt")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert said.endswith("with --base=PATH\n")
    assert main([str(adapters), str(tmp_path / "out.pt"), f"--base={base}"]) == 0
    with pytest.raises(
        CheckpointError,
        match=r"without the weights .*random\.pt with SHA-256 \w+\.\.\.\) with base=PATH",
    ):
        build_predictor(find(str(adapters), ModelConfig()), CPU)


def test_another_base_is_refused(adapters, base, tmp_path):
    content = torch.load(base)
    content["model"]["no_mem_embed"][0, 0, 0] += 1e-3
    torch.save(content, tmp_path / "random.pt")
    with pytest.raises(CheckpointError, match=r"base=.* has the SHA-256 .* belong to random\.pt"):
        put_on_base(read_adapters(adapters), str(tmp_path / "random.pt"))


def test_it_is_no_start_of_a_training(adapters):
    with pytest.raises(CheckpointError, match=r"holds adapters: merge them with python -m core\.e"):
        read_weights(adapters)


def test_training_from_random_weights_has_no_file_of_adapters(checkpoint, tmp_path):
    content = torch.load(checkpoint)
    content["hyper_parameters"]["config"]["model"]["checkpoint_path"] = None
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"this one had model\.checkpoint_path=null"):
        export_checkpoint(tmp_path / "last.ckpt", file_format="adapters")


def masks_of(predictor):
    video = draw(4, (61, 83), [Disc(1, (20, 20), 9), Disc(2, (60, 30), 8)])
    prompts = [Prompt(0, key, mask=video.masks(key)[0]) for key in video.ids]
    return torch.stack(
        [frame.logits for frame in track(predictor, InMemory(video.images), prompts)]
    )


def test_meta_s_predictor_gives_the_same_masks(adapters, base, checkpoint, trained, tmp_path):
    from sam2.build_sam import build_sam2_video_predictor

    GlobalHydra.instance().clear()
    path = export_checkpoint(checkpoint, tmp_path / "merged.pt")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        meta = build_sam2_video_predictor(
            "merged.yaml", str(path), device="cpu", apply_postprocessing=False
        )
    expected = masks_of(meta)
    ours = build_predictor(find(str(adapters), ModelConfig(), base=str(base)), CPU)
    assert torch.equal(masks_of(ours), expected)

    # the trained model as it is, adapters beside their layers
    node = architecture_node(trained.config.model)
    node["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    beside = instantiate(node, _convert_="all")
    inject(beside, trained.config.model.lora)
    beside.load_state_dict(trained.model.state_dict())
    logits = masks_of(beside.eval())
    assert torch.allclose(logits, expected, atol=1e-4)
    assert torch.equal(logits > 0, expected > 0)


@pytest.mark.parametrize(
    ("option", "tolerance"),
    [
        ({"activation_checkpointing": True}, 0),
        # compiled code adds up in another order
        pytest.param({"compile_image_encoder": True}, 1e-5, marks=pytest.mark.long),
    ],
    ids=["activation checkpointing", "compile"],
)
def test_gradients_of_adapters_do_not_depend_on(option, tolerance, base):
    gradients = []
    for chosen in ({}, option):
        model = build_model(ModelConfig(image_size=IMAGE_SIZE, **chosen))
        load_weights(model, base)
        torch.manual_seed(1)
        inject(model, LoraConfig(rank=2))
        for name, value in model.named_parameters():
            value.requires_grad_("lora_" in name)
            if "lora_b" in name:
                value.data.normal_(0, 0.1)
        masks = torch.zeros(2, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
        masks[..., 10:30, 10:30] = True
        frames = torch.rand(2, 1, 3, IMAGE_SIZE, IMAGE_SIZE)
        outs = model(make_batch(frames, masks, [0]))
        outs[1]["pred_masks_high_res"].square().mean().backward()
        gradients.append(
            {name: v.grad for name, v in model.named_parameters() if v.grad is not None}
        )
    plain, changed = gradients
    assert plain.keys() == changed.keys()
    assert any("image_encoder" in name for name in plain)
    for name, gradient in plain.items():
        close = tolerance * float(gradient.abs().max())
        torch.testing.assert_close(changed[name], gradient, rtol=0, atol=close, msg=name)


def test_the_hash_is_over_names_shapes_types_and_values():
    weights = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(7)}
    expected = b"a [] torch.int64\n" + struct.pack("<q", 7)
    expected += b"b [1, 2] torch.float32\n" + struct.pack("<2f", 1.0, -2.0)
    assert weights_hash(weights) == hashlib.sha256(expected).hexdigest()
    assert weights_hash(weights | {"b": torch.tensor([[1.0], [-2.0]])}) != weights_hash(weights)
    assert weights_hash({"c": weights["b"], "a": weights["a"]}) != weights_hash(weights)


@pytest.fixture
def folder(tmp_path):
    """A folder of Hugging Face's for frames of 512 pixels, and the same weights by Meta's names."""
    names = [*RENAMED, MATRIX]
    weights = {name: torch.full((2, 3), float(index)) for index, name in enumerate(names)}
    weights |= {name: torch.full((1, 3), 0.5) for name in POINTS}
    weights["image_encoder.trunk.patch_embed.proj.weight"] = torch.rand(96, 3)
    tensors = {theirs: weights[own] for own, theirs in RENAMED.items()}
    tensors[ALL_POINTS] = torch.cat([weights[name] for name in POINTS])
    tensors |= {name: weights[MATRIX].clone() for name in MATRICES}
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"image_size": 512}))
    return folder, weights


def test_the_hash_is_the_same_in_every_format(folder, tmp_path):
    folder, weights = folder
    torch.save({"model": weights}, tmp_path / "meta.pt")
    state = {f"model.{name}": value for name, value in weights.items()} | {"other": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    paths = (folder, tmp_path / "meta.pt", tmp_path / "lightning.ckpt")
    assert len({weights_hash(read_weights(path).weights) for path in paths}) == 1


def test_a_folder_of_hugging_face_s_tells_its_model(folder):
    for path in (folder[0], folder[0] / "model.safetensors"):
        found = find(str(path), ModelConfig())
        assert found.model.architecture == "sam2.1_hiera_tiny"
        assert found.model.image_size == 512
        assert found.run_dir is None


@pytest.mark.slow
def test_a_folder_of_hugging_face_s_is_exported_and_tracked_with(tmp_path):
    import_sam2()
    config = ModelConfig(architecture="sam2.1_hiera_tiny", image_size=64)
    model = build_model(config)
    export_folder(model, tmp_path / "hf", config)
    path = export_checkpoint(tmp_path / "hf")
    assert path == tmp_path / "hf.pt"
    for state in (
        read_weights(path).weights,
        build_predictor(find(str(tmp_path / "hf"), ModelConfig()), CPU).state_dict(),
    ):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_weights_of_sam_2_0_are_said_to_become_2_1(base, caplog):
    weights = read_weights(base)
    for name in ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"):
        del weights.weights[name]
    model = build_model(ModelConfig(image_size=IMAGE_SIZE))
    assert "what is exported from this model is SAM 2.1" in load_found(model, weights, base)
    assert "SAM 2.1" in caplog.text


def test_whole_videos_are_scored_with_adapters_on_their_base(adapters, base, tmp_path, capsys):
    arguments = [f"weights={adapters}", f"out={tmp_path / 'out'}", "trainer.accelerator=cpu"]
    arguments += ["data.synthetic.num_val_clips=1", "data.num_frames=3", "films=none"]
    assert evaluate([*arguments, "base=nowhere.pt"]) == 1
    assert "error: base=nowhere.pt does not exist" in capsys.readouterr().err
    assert evaluate([*arguments, f"base={base}", "compare=released"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["compare"]["with"] == str(base)
    assert summary["objects_tracked"] >= 2
    assert summary["weights"] == str(adapters)
