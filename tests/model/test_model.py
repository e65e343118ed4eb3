"""Building SAM 2, loading weights into it and freezing it."""

import copy
import logging
import subprocess
import sys

import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from scenes import moving_squares

from core.config import ModelConfig
from core.model.build import architecture_node, build_model
from core.model.freezing import freeze, parameter_table
from core.model.loading import load_weights
from core.model.weights import CheckpointError
from core.official import MissingSam2Error, import_sam2

SIZE = 64


def build(**changes):
    torch.manual_seed(0)
    return build_model(ModelConfig(**{"image_size": SIZE, **changes}))


@pytest.fixture(scope="module")
def tiny():
    return build()


def save(path, state_dict):
    torch.save({"model": state_dict}, path)
    return path


def test_tiny_has_a_million_and_a_half_parameters(tiny):
    assert 1.4e6 < sum(parameter.numel() for parameter in tiny.parameters()) < 1.6e6


@pytest.mark.parametrize("image_size", [64, 96, 128])
def test_image_size_reaches_every_part_that_depends_on_it(image_size):
    model = build(image_size=image_size)
    assert model.image_size == image_size
    assert model.sam_prompt_encoder.input_image_size == (image_size, image_size)
    side = image_size // 16
    assert model.sam_image_embedding_size == side
    for layer in model.memory_attention.layers:
        assert layer.self_attn.freqs_cis.shape[0] == side**2
        assert layer.cross_attn_image.freqs_cis.shape[0] == side**2


def test_released_architecture_comes_from_the_packaged_yaml():
    node = architecture_node(ModelConfig(architecture="sam2.1_hiera_small", image_size=512))
    assert node.image_encoder.trunk.stages == [1, 2, 11, 2]
    assert node.memory_attention.d_model == 256
    assert node.memory_attention.layer.self_attention.feat_sizes == [32, 32]


@pytest.mark.parametrize(
    ("prompt_type", "keys"),
    [
        ("mask", {"mask"}),
        ("point", {"point"}),
        ("bbox", {"box"}),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_prompt_type_is_what_the_model_is_given(prompt_type, keys, training):
    model = build(prompt_type=prompt_type, num_correction_points=1).train(training)
    with torch.no_grad():
        first = model(moving_squares(num_frames=2))[0]
    given = set()
    if first["mask_inputs"] is not None:
        given.add("mask")
    if first["point_inputs"] is not None:
        given.add("box" if (first["point_inputs"]["point_labels"] == 2).any() else "point")
    assert given == keys


def test_mixed_prompts_follow_official_training():
    model = build(prompt_type="mixed", num_frames_to_correct=2, num_init_cond_frames=2)
    assert model.prob_to_use_pt_input_for_train == 0.5
    assert model.prob_to_use_box_input_for_train == 0.5
    assert model.prob_to_use_pt_input_for_eval == 0.0
    assert model.prob_to_sample_from_gt_for_train == 0.1
    assert model.add_all_frames_to_correct_as_cond
    assert model.num_init_cond_frames_for_train == 2
    assert model.num_init_cond_frames_for_eval == 1


def test_correction_points_are_as_many_as_configured():
    model = build(prompt_type="point", num_correction_points=2)
    out = model(moving_squares(num_frames=2))[0]
    assert out["multistep_point_inputs"][-1]["point_labels"].shape == (2, 1 + 2)


def test_building_leaves_hydra_uninitialised():
    code = (
        "import logging\n"
        "from core.config import ModelConfig\n"
        "from core.model.build import build_model\n"
        "from hydra.core.global_hydra import GlobalHydra\n"
        "build_model(ModelConfig(prompt_type='point'))\n"
        "assert not GlobalHydra.instance().is_initialized()\n"
        "assert logging.root.handlers == []\n"
        "assert logging.root.level == logging.WARNING\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_building_keeps_a_hydra_that_is_in_use():
    GlobalHydra.instance().clear()
    with initialize_config_module("sam2", version_base="1.2"):
        mine = GlobalHydra.instance().hydra
        build()
        assert GlobalHydra.instance().hydra is mine


def test_modules_are_importable_without_sam2():
    code = (
        "import sys\n"
        "sys.modules['sam2'] = sys.modules['training'] = None\n"
        "import core.config, core.export, core.metrics.video, core.metrics.rounds, core.optim\n"
        "import core.model.adapters, core.model.build, core.model.freezing, core.model.loading\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_missing_sam2_is_one_clear_sentence(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("sam2", "training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(MissingSam2Error, match="sam2 is not installed: run `make setup`"):
        build()


def test_activation_checkpointing_survives_a_copy():
    model = build(activation_checkpointing="image_encoder")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.image_encoder.trunk.patch_embed.proj.weight.zero_()
        copied.image_encoder.trunk.blocks[0].mlp.layers[0].weight.zero_()
    image = torch.ones(1, 3, SIZE, SIZE)
    features = [m.image_encoder(image)["vision_features"] for m in (model, copied)]
    features[1].sum().backward()
    assert not torch.equal(features[0], features[1])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "option", [{"activation_checkpointing": "all"}, {"compile_image_encoder": True}]
)
def test_options_keep_the_names_of_the_parameters(tiny, option):
    assert build(**option).state_dict().keys() == tiny.state_dict().keys()


def test_compile_image_encoder_compiles_it_alone():
    model = build(compile_image_encoder=True)
    compiled = [name for name, m in model.named_modules() if m._compiled_call_impl is not None]
    assert compiled == ["image_encoder"]


def test_load_weights_restores_every_tensor(tmp_path, tiny):
    path = save(tmp_path / "weights.pt", tiny.state_dict())
    torch.manual_seed(1)
    other = build_model(ModelConfig(image_size=SIZE))
    report = load_weights(other, path)
    for name, value in tiny.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
    num = len(tiny.state_dict())
    assert f"{num} of {num} tensors loaded" in report


def test_load_weights_reads_a_lightning_checkpoint(tmp_path, tiny):
    path = tmp_path / "last.ckpt"
    state = {f"model.{name}": value + 1 for name, value in tiny.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(1)}, "epoch": 3}, path)
    other = build()
    load_weights(other, path)
    torch.testing.assert_close(other.no_mem_embed, tiny.no_mem_embed + 1)


def test_load_weights_takes_sam2_0_files_with_a_warning(tmp_path, tiny, caplog):
    new = ("no_obj_embed_spatial", "obj_ptr_tpos_proj")
    state = {name: v for name, v in tiny.state_dict().items() if not name.startswith(new)}
    other = build()
    with caplog.at_level(logging.WARNING, logger="core.model.loading"):
        report = load_weights(other, save(tmp_path / "sam2.pt", state))
    assert "this is a SAM 2.0 file" in report
    assert "obj_ptr_tpos_proj.weight of SAM 2.1 are zero" in caplog.text
    for value in (other.no_obj_embed_spatial, *other.obj_ptr_tpos_proj.parameters()):
        assert not value.any()


def test_load_weights_refuses_missing_parameters(tmp_path, tiny):
    state = {k: v for k, v in tiny.state_dict().items() if k != "no_mem_embed"}
    path = save(tmp_path / "weights.pt", state)
    with pytest.raises(
        CheckpointError, match=r"weights\.pt does not fit.*1 missing \(no_mem_embed"
    ):
        load_weights(tiny, path)


def test_load_weights_refuses_unexpected_parameters(tmp_path, tiny):
    path = save(tmp_path / "weights.pt", {**tiny.state_dict(), "extra": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"1 unexpected \(extra\)"):
        load_weights(tiny, path)


def test_load_weights_refuses_other_shapes_and_leaves_the_model_alone(tmp_path, tiny):
    state = {name: value + 1 for name, value in tiny.state_dict().items()}
    state["no_mem_embed"] = torch.zeros(1, 1, 8)
    model = build()
    with pytest.raises(CheckpointError, match=r"1 of another shape \(no_mem_embed\)"):
        load_weights(model, save(tmp_path / "weights.pt", state))
    torch.testing.assert_close(model.no_obj_ptr, tiny.no_obj_ptr)


def test_load_weights_suggests_the_architecture_of_the_file(tmp_path, tiny):
    trunk = "image_encoder.trunk"
    state = {f"{trunk}.patch_embed.proj.weight": torch.zeros(96, 3, 7, 7)}
    state |= {f"{trunk}.blocks.{index}.norm1.weight": torch.zeros(96) for index in range(16)}
    path = save(tmp_path / "small.pt", state)
    with pytest.raises(CheckpointError, match=r"fits model\.architecture=sam2\.1_hiera_small"):
        load_weights(tiny, path)


def test_load_weights_names_a_missing_file(tmp_path, tiny):
    with pytest.raises(CheckpointError, match=r"model\.checkpoint_path=.*no\.pt does not exist"):
        load_weights(tiny, tmp_path / "no.pt")


def test_load_weights_names_a_file_without_weights(tmp_path, tiny):
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"must hold a `model` entry.*found epoch"):
        load_weights(tiny, tmp_path / "other.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_load_weights_names_a_damaged_file(tmp_path, content, tiny):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.pt is damaged"):
        load_weights(tiny, path)


def test_load_weights_names_a_truncated_file(tmp_path, tiny):
    path = save(tmp_path / "cut.pt", tiny.state_dict())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
        load_weights(tiny, path)


def trainable(model):
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def test_freeze_trains_everything_by_default(tiny):
    freeze(tiny, None)
    assert all(parameter.requires_grad for parameter in tiny.parameters())


@pytest.mark.parametrize(
    ("preset", "inside", "outside"),
    [
        ("memory", {"memory_attention", "maskmem_tpos_enc"}, {"sam_mask_decoder", "obj_ptr_proj"}),
        (
            "decoder_memory",
            {"memory_encoder", "obj_ptr_proj", "sam_mask_decoder"},
            {"image_encoder"},
        ),
        ("all_but_image_encoder", {"sam_prompt_encoder", "no_obj_ptr"}, {"image_encoder"}),
        ("all", {"image_encoder", "sam_prompt_encoder"}, set()),
    ],
)
def test_freeze_presets_train_their_modules(tiny, preset, inside, outside):
    freeze(tiny, [preset])
    assert inside <= trainable(tiny)
    assert not outside & trainable(tiny)


def test_freeze_takes_dotted_names_and_parameters(tiny):
    freeze(tiny, ["image_encoder.neck", "no_mem_embed"])
    names = {name for name, parameter in tiny.named_parameters() if parameter.requires_grad}
    assert "no_mem_embed" in names
    assert all(name.startswith("image_encoder.neck.") for name in names - {"no_mem_embed"})
    assert len(names) > 1


def test_freeze_does_not_take_a_prefix_of_a_name_for_the_name(tiny):
    freeze(tiny, ["memory_attention.layers.1"])
    assert trainable(tiny) == {"memory_attention"}
    assert not tiny.memory_attention.layers[0].norm1.weight.requires_grad


def test_freeze_suggests_the_nearest_name(tiny):
    with pytest.raises(ValueError, match=r"'memory_atention'.*did you mean 'memory_attention'\?"):
        freeze(tiny, ["memory_atention"])


def test_freeze_lists_the_valid_names(tiny):
    with pytest.raises(
        ValueError, match=r"presets: all, memory.*top-level modules:.*image_encoder"
    ):
        freeze(tiny, ["zzz"])


def test_freeze_refuses_a_module_without_parameters(tiny):
    with pytest.raises(ValueError, match=r"'memory_encoder.position_encoding' has no parameters"):
        freeze(tiny, ["memory_encoder.position_encoding"])


def test_frozen_modules_get_no_gradient():
    model = build()
    freeze(model, ["memory"])
    outputs = model(moving_squares())
    sum(out["pred_masks_high_res"].square().mean() for out in outputs).backward()
    assert model.memory_encoder.out_proj is not None
    assert model.memory_attention.layers[0].norm1.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.image_encoder.parameters())


def test_parameter_table_adds_up(tiny):
    freeze(tiny, ["memory"])
    table = parameter_table(tiny).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    total = sum(parameter.numel() for parameter in tiny.parameters())
    counts = [int(cell.replace(",", "")) for cell in rows["total"]]
    assert sum(counts) == total
    assert rows["image_encoder"][0] == "0"
    assert rows["memory_attention"][1] == "0"


@pytest.mark.slow
def test_sam21_hiera_tiny_trains_and_validates_at_512():
    model = build(
        architecture="sam2.1_hiera_tiny",
        image_size=512,
        prompt_type="point",
        num_correction_points=1,
    )
    batch = moving_squares(num_frames=2, size=512)
    outputs = model(batch)
    sum(out["pred_masks_high_res"].mean() for out in outputs).backward()
    assert model.image_encoder.trunk.patch_embed.proj.weight.grad.isfinite().all()
    model.eval()
    with torch.no_grad():
        outputs = model(batch)
    assert [tuple(out["pred_masks_high_res"].shape) for out in outputs] == [(2, 1, 512, 512)] * 2


@pytest.mark.slow
def test_checkpoint_of_the_official_build_loads(tmp_path):
    import_sam2()
    from sam2.build_sam import build_sam2

    GlobalHydra.instance().clear()
    with initialize_config_module("sam2", version_base="1.2"):
        official = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    path = save(tmp_path / "sam2.1_hiera_tiny.pt", official.state_dict())
    model = build(architecture="sam2.1_hiera_tiny", image_size=512)
    load_weights(model, path)
    torch.testing.assert_close(model.no_mem_embed, official.no_mem_embed)
