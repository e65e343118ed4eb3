"""Files of Hugging Face's Sam2VideoModel: the same tensors under other names, both ways.

The expected names are those of `hugging_face_names`. Masks are compared with transformers itself
where it is installed, which no requirement of this program asks for.
"""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from hugging_face_names import ALL_POINTS, MATRICES, MATRIX, POINTS, RENAMED
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import save_file

from core.config import ARCHITECTURES, Config, ExportConfig, ModelConfig
from core.export import export_folder, export_weights, loading_code
from core.model import hugging_face
from core.model.build import build_model
from core.model.hugging_face import from_official, model_config, read_hugging_face, write_folder
from core.model.loading import load_weights, read_weights, with_architecture
from core.model.weights import CheckpointError
from core.tracking.weights import find

NEW_IN_SAM21 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")


@pytest.fixture
def weights():
    """Every tensor of sam2.1_hiera_tiny by Meta's names, no two alike and all small."""
    names = [*RENAMED, *POINTS, MATRIX]
    values = {name: torch.full((2, 3), float(index)) for index, name in enumerate(names)}
    for name in POINTS:
        values[name] = values[name][:1]
    values["image_encoder.trunk.patch_embed.proj.weight"] = torch.rand(96, 3)
    return values


@pytest.fixture
def tensors(weights):
    """The same by Hugging Face's names."""
    renamed = {theirs: weights[own] for own, theirs in RENAMED.items()}
    renamed[ALL_POINTS] = torch.cat([weights[name] for name in POINTS])
    return renamed | {name: weights[MATRIX].clone() for name in MATRICES}


def saved(folder, tensors):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_there_are_as_many_tensors_as_transformers_has(tensors):
    assert len(tensors) == 469


def test_a_folder_gives_meta_s_names(tmp_path, weights, tensors):
    assert_same(read_weights(saved(tmp_path / "hf", tensors)).weights, weights)


def test_a_file_alone_gives_them_too(tmp_path, weights, tensors):
    path = saved(tmp_path / "hf", tensors) / "model.safetensors"
    assert_same(read_weights(path).weights, weights)


def test_shards_are_put_together(tmp_path, weights, tensors):
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:200]}
    shards["model-00002-of-00002.safetensors"] = names[200:]
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(read_weights(tmp_path).weights, weights)

    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"the shard model-00002-of-00002.safetensors .* miss"
    ):
        read_weights(tmp_path)


def test_shards_elsewhere_are_refused(tmp_path):
    index = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"must name the shards that lie beside it"):
        read_weights(tmp_path)


def test_half_precision_becomes_float32(tmp_path, tensors):
    folder = saved(tmp_path / "hf", {name: value.bfloat16() for name, value in tensors.items()})
    assert {value.dtype for value in read_weights(folder).weights.values()} == {torch.float32}


def test_weights_get_hugging_face_s_names(weights, tensors):
    assert_same(from_official(weights), tensors)


def test_a_written_folder_is_read_again(tmp_path, weights):
    write_folder(weights, tmp_path / "hf", "sam2.1_hiera_tiny", 256)
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    assert_same(read_weights(tmp_path / "hf").weights, weights)


def test_sam_2_0_lacks_three_tensors_on_both_sides(tmp_path, weights):
    older = {name: value for name, value in weights.items() if name not in NEW_IN_SAM21}
    write_folder(older, tmp_path, "sam2.1_hiera_tiny", 1024)
    assert_same(read_weights(tmp_path).weights, older)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["enable_occlusion_spatial_embedding"] is False
    assert config["enable_temporal_pos_encoding_for_object_pointers"] is False


def test_the_image_size_stands_in_every_field_that_depends_on_it(tmp_path, weights):
    write_folder(weights, tmp_path, "sam2.1_hiera_tiny", 512)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "sam2_video"
    assert config["image_size"] == config["prompt_encoder_config"]["image_size"] == 512
    sides = [[128, 128], [64, 64], [32, 32]]
    assert config["vision_config"]["backbone_feature_sizes"] == sides
    assert config["memory_attention_rope_feat_sizes"] == [32, 32]
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    assert processor["target_size"] == 512
    assert processor["image_processor"]["size"] == {"height": 512, "width": 512}
    assert processor["image_processor"]["mask_size"] == {"height": 128, "width": 128}
    assert processor["video_processor"]["size"] == {"height": 512, "width": 512}


# The fields of transformers' Sam2VideoMaskDecoderConfig and their defaults.
MASK_DECODER = {
    "hidden_size": 256,
    "hidden_act": "gelu",
    "mlp_dim": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "attention_downsample_rate": 2,
    "num_multimask_outputs": 3,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 256,
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}


def test_meta_s_choice_among_masks_is_off_and_every_field_beside_it_is_there():
    """transformers 5.5 and 5.15 fill in what is left out with fields of the prompt encoder."""
    decoder = model_config("sam2.1_hiera_tiny", 512, {})["mask_decoder_config"]
    assert decoder == {**MASK_DECODER, "dynamic_multimask_via_stability": False}


@pytest.mark.parametrize(
    ("architecture", "blocks", "channels"),
    [
        ("sam2.1_hiera_tiny", [1, 2, 7, 2], [768, 384, 192, 96]),
        ("sam2.1_hiera_small", [1, 2, 11, 2], [768, 384, 192, 96]),
        ("sam2.1_hiera_base_plus", [2, 3, 16, 3], [896, 448, 224, 112]),
        ("sam2.1_hiera_large", [2, 6, 36, 4], [1152, 576, 288, 144]),
    ],
)
def test_the_architecture_stands_in_the_configuration(architecture, blocks, channels):
    vision = model_config(architecture, 1024, {})["vision_config"]
    assert vision["backbone_config"]["blocks_per_stage"] == blocks
    assert vision["backbone_config"]["embed_dim_per_stage"] == channels[::-1]
    assert vision["backbone_channel_list"] == channels


def test_an_image_model_is_refused(tmp_path, tensors):
    image_only = {
        name: value
        for name, value in tensors.items()
        if not name.startswith(("memory_", "object_pointer", "temporal_"))
    }
    with pytest.raises(CheckpointError, match=r"has no memory: expected .* a Sam2VideoModel"):
        read_weights(saved(tmp_path / "hf", image_only))


@pytest.mark.parametrize("name", MATRICES)
def test_two_copies_that_differ_are_refused(tmp_path, tensors, name):
    tensors[name] = tensors[name] + 1
    with pytest.raises(CheckpointError, match=r"must be equal, they are two copies"):
        read_weights(saved(tmp_path / "hf", tensors))


@pytest.mark.parametrize("name", MATRICES)
def test_a_missing_copy_is_named(tmp_path, tensors, name):
    del tensors[name]
    with pytest.raises(CheckpointError, match=f"the tensor {name} is missing"):
        read_weights(saved(tmp_path / "hf", tensors))


def test_a_renamed_tensor_is_named(tmp_path, tensors):
    tensors["mask_decoder.conv_s2.weight"] = tensors.pop("mask_decoder.conv_s1.weight")
    tensors["mask_decoder.konv.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"no SAM 2 has the tensor mask_decoder.konv.weight"):
        read_weights(saved(tmp_path / "hf", tensors))


def test_point_embeddings_of_another_number_are_refused(tmp_path, tensors):
    tensors[ALL_POINTS] = tensors[ALL_POINTS][:3]
    with pytest.raises(CheckpointError, match=r"must have 4 rows, found shape \[3, 3\]"):
        read_weights(saved(tmp_path / "hf", tensors))


@pytest.mark.parametrize(
    ("name", "value"), [("global_attention_blocks", [5, 7, 10]), ("window_size_per_stage", [7] * 4)]
)
def test_another_trunk_of_the_same_shapes_is_refused(tmp_path, tensors, name, value):
    config = {"vision_config": {"backbone_config": {name: value}}}
    (saved(tmp_path / "hf", tensors) / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{name} of config.json must be"):
        read_weights(tmp_path / "hf")


def test_the_released_trunk_is_taken(tmp_path, weights, tensors):
    config = {"vision_config": {"backbone_config": {"global_attention_blocks": [5, 7, 9]}}}
    (saved(tmp_path / "hf", tensors) / "config.json").write_text(json.dumps(config))
    assert_same(read_weights(tmp_path / "hf").weights, weights)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\xff" * 64])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged or is no"):
        read_weights(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder without model.safetensors"):
        read_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"no.safetensors does not exist"):
        read_weights(tmp_path / "no.safetensors")


def test_auto_takes_the_architecture_from_the_weights(tmp_path, tensors):
    folder = saved(tmp_path / "hf", tensors)
    config = ModelConfig(architecture="auto", checkpoint_path=str(folder))
    assert with_architecture(config).architecture == "sam2.1_hiera_tiny"


def test_auto_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"model.checkpoint_path must be given with model=auto"):
        with_architecture(ModelConfig(architecture="auto"))


def test_a_model_is_not_built_from_auto():
    with pytest.raises(ValueError, match=r"model.architecture must be resolved"):
        build_model(ModelConfig(architecture="auto"))


def test_auto_with_foreign_weights_is_refused(tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    config = ModelConfig(architecture="auto", checkpoint_path=str(tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match=r"not the weights of a SAM 2 model"):
        with_architecture(config)


def test_tiny_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"model.architecture=tiny cannot be exported"):
        write_folder({}, tmp_path / "hf", "tiny", 128)
    with pytest.raises(ValueError, match=r"export.formats must be meta alone with model=tiny"):
        Config(export=ExportConfig(formats=["hf"]))
    with pytest.raises(ValueError, match=r"export.formats must be a list of meta and hf"):
        ExportConfig(formats=["onnx"])


@pytest.fixture
def hub(monkeypatch, tmp_path, tensors):
    """A hub that has one model, and the calls it got."""
    calls = []

    def snapshot_download(name, revision, allow_patterns):
        calls.append((name, revision))
        if name != "facebook/sam2.1-hiera-tiny":
            raise OSError("no network\nand a long explanation")
        return str(saved(tmp_path / "kept", tensors))

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_a_model_of_the_hub_is_downloaded(hub, weights):
    assert_same(read_weights("hf:facebook/sam2.1-hiera-tiny").weights, weights)
    read_weights("hf:facebook/sam2.1-hiera-tiny@v1")
    assert hub == [("facebook/sam2.1-hiera-tiny", None), ("facebook/sam2.1-hiera-tiny", "v1")]


def test_whole_videos_are_tracked_with_a_model_of_the_hub(hub, weights):
    named = "hf:facebook/sam2.1-hiera-tiny@v1"
    found = find(named, ModelConfig())
    assert_same(found.read().weights, weights)
    assert (found.model.architecture, str(found)) == ("sam2.1_hiera_tiny", named)
    assert found.default_out("evaluation") == Path("sam2.1-hiera-tiny_evaluation")
    with pytest.raises(CheckpointError, match=r"^compare=hf:facebook/other could not be downl"):
        find("hf:facebook/other", ModelConfig(), name="compare")


def test_a_missing_network_is_one_sentence(hub):
    with pytest.raises(CheckpointError, match=r"could not be downloaded .*: no network$"):
        read_weights("hf:facebook/other")


def test_the_hub_without_its_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"needs huggingface_hub: .* -e '\.\[hub\]'"):
        read_hugging_face("hf:facebook/sam2.1-hiera-tiny")


@pytest.mark.parametrize("reference", ["hf:tiny", "hf:", "hf:a/b/c", "hf:../b/c"])
def test_a_reference_names_owner_and_model(reference):
    with pytest.raises(CheckpointError, match=r"must be hf:OWNER/NAME"):
        read_hugging_face(reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        "sam2.1_hiera_tiny",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ARCHITECTURES
            if name not in ("tiny", "sam2.1_hiera_tiny")
        ),
    ],
)
def test_every_tensor_of_a_released_architecture_comes_back(tmp_path, architecture):
    weights = build_model(ModelConfig(architecture=architecture)).state_dict()
    older = {name: value for name, value in weights.items() if name not in NEW_IN_SAM21}
    for version, some in (("2.1", weights), ("2.0", older)):
        write_folder(some, tmp_path / version, architecture, 1024)
        assert_same(read_hugging_face(tmp_path / version).weights, some)


SIZE = 256


def shaken(model):
    """Give every parameter a value that tells: no zero and no 1e-6 that hides what it scales."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
            else:
                parameter.add_(0.02 * torch.randn_like(parameter))
        # The object is taken for present: the masks of an absent one are -1024 throughout.
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10.0)
    return model.eval()


@pytest.mark.slow
def test_transformers_tracks_clicks_and_boxes_as_meta_s_predictor_does(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = ModelConfig(architecture="sam2.1_hiera_tiny", image_size=SIZE)
    model = shaken(build_model(config))
    export_weights(model, tmp_path / "meta.pt", config)
    export_folder(model, tmp_path / "hf", config)

    other = build_model(config)
    assert "471 of 471" in load_weights(other, tmp_path / "hf")
    assert_same(other.state_dict(), model.state_dict())

    GlobalHydra.instance().clear()
    variables = {}
    exec(loading_code(tmp_path / "meta.pt", config), variables)
    official = variables["predictor"]
    theirs, report = transformers.Sam2VideoModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    frames = torch.randn(3, 3, SIZE, SIZE)
    clicks = torch.tensor([[60.0, 80.0], [150.0, 90.0], [200.0, 200.0]])
    box = torch.tensor([40.0, 50.0, 180.0, 190.0])
    prompts = {
        "one click": (clicks[:1], torch.tensor([1])),
        "three clicks": (clicks, torch.tensor([1, 0, 1])),
        "box": (box.reshape(2, 2), torch.tensor([2, 3])),
    }
    for points, labels in prompts.values():
        found = of_transformers(transformers, theirs.eval(), frames, points, labels)
        official.binarize_mask_from_pts_for_mem_enc = False
        as_trained = of_meta(official, frames, points, labels)
        assert_close(found[0], as_trained[0])
        # whatever its configuration says, transformers remembers prompted frames so
        official.binarize_mask_from_pts_for_mem_enc = True
        assert_close(found, of_meta(official, frames, points, labels))


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-3


def of_meta(predictor, frames, points, labels):
    """Logits [T, h, w] of Meta's predictor at a quarter of the size."""
    import sam2.sam2_video_predictor as module

    before = module.load_video_frames
    module.load_video_frames = lambda **kwargs: (frames, SIZE, SIZE)
    try:
        state = predictor.init_state("frames")
    finally:
        module.load_video_frames = before
    arguments = (
        {"box": points.flatten()} if labels[0] == 2 else {"points": points, "labels": labels}
    )
    predictor.add_new_points_or_box(state, 0, 1, **arguments)
    for _ in predictor.propagate_in_video(state):
        pass
    outputs = state["output_dict_per_obj"][0]
    kept = outputs["cond_frame_outputs"] | outputs["non_cond_frame_outputs"]
    return torch.stack([kept[t]["pred_masks"][0, 0] for t in range(len(frames))])


def of_transformers(transformers, model, frames, points, labels):
    """The same of transformers; the frames are given as they are, without its processor."""
    session = transformers.models.sam2_video.modeling_sam2_video.Sam2VideoInferenceSession(
        video=frames, video_height=SIZE, video_width=SIZE, dtype=torch.float32
    )
    inputs = {"point_coords": points[None, None], "point_labels": labels[None, None].int()}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, inputs)
    session.obj_with_new_inputs = [1]
    with torch.no_grad():
        found = [model(session, frame_idx=t).pred_masks for t in range(len(frames))]
    return torch.stack([masks[0, 0] for masks in found])


def test_the_printed_lines_name_the_folder(tmp_path):
    assert repr(str(tmp_path)) in hugging_face.loading_code(tmp_path)
