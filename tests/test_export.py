"""Export to Meta's own predictor: the same masks for the same prompts."""

import dataclasses
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image
from scenes import make_batch

from core.config import Config, LossConfig, ModelConfig
from core.export import (
    _beside,
    export_checkpoint,
    export_weights,
    loading_code,
    main,
    predictor_overrides,
)
from core.model.build import build_model
from core.model.weights import CheckpointError
from core.official import import_sam2
from core.tracking.weights import Weights, find

SIZE, NUM_FRAMES = 64, 4
CONFIG = ModelConfig(image_size=SIZE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of JPEGs of two moving squares, the frames as the predictor reads them, masks."""
    import_sam2()
    from sam2.utils.misc import load_video_frames_from_jpg_images

    folder = tmp_path_factory.mktemp("clip")
    masks = torch.zeros(NUM_FRAMES, 2, SIZE, SIZE, dtype=torch.bool)
    for t in range(NUM_FRAMES):
        image = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
        for index, (corner, colour) in enumerate(((4, (250, 20, 20)), (32, (20, 20, 250)))):
            masks[t, index, corner + 2 * t : corner + 2 * t + 20, corner : corner + 24] = True
            image[masks[t, index].numpy()] = colour
        Image.fromarray(image).save(folder / f"{t:05d}.jpg", quality=95)
    frames, _, _ = load_video_frames_from_jpg_images(
        str(folder), SIZE, offload_video_to_cpu=True, compute_device=torch.device("cpu")
    )
    return folder, frames, masks


def batch_of(frames, masks):
    return make_batch(frames[:, None], masks, [0] * masks.shape[1])


@pytest.fixture(scope="module")
def trained(clip):
    """A tiny model after some steps on the clip: enough for masks that are not all the same."""
    import_sam2()
    from training.loss_fns import MultiStepMultiMasksAndIous

    # more weight on what is there than official training gives it: it learns quickly
    weights = dataclasses.asdict(LossConfig(focal_alpha=0.75, loss_dice=5.0))
    loss_fn = MultiStepMultiMasksAndIous(
        weight_dict={name: weights.pop(name) for name in list(weights) if name.startswith("loss_")},
        **weights,
    )
    torch.manual_seed(0)
    model = build_model(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = batch_of(*clip[1:])
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_fn(model(batch), batch.masks)["core_loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def track(predictor, folder, prompt):
    """Masks [T, O, H, W] of the official predictor, `prompt` being called with its state."""
    state = predictor.init_state(str(folder), async_loading_frames=False)
    prompt(state)
    masks = torch.zeros(NUM_FRAMES, 2, SIZE, SIZE, dtype=torch.bool)
    for t, _, logits in predictor.propagate_in_video(state):
        masks[t] = logits[:, 0] > 0
    return masks


def load_in_predictor(path):
    from sam2.build_sam import build_sam2_video_predictor

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(path.parent), version_base="1.2"):
        return build_sam2_video_predictor(
            path.with_suffix(".yaml").name, str(path), device="cpu", apply_postprocessing=False
        )


@pytest.fixture(scope="module")
def predictor(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "best.pt"
    assert export_weights(trained, path, CONFIG) == "best.yaml"
    return load_in_predictor(path)


def run_model(model, batch, **settings):
    """Outputs of `model` in evaluation with some of its settings changed for the call."""
    before = {name: getattr(model, name) for name in settings}
    vars(model).update(settings)
    try:
        with torch.no_grad():
            return model(batch)
    finally:
        vars(model).update(before)


def masks_of(outputs):
    return torch.stack([out["pred_masks_high_res"][:, 0] > 0 for out in outputs])


def test_predictor_tracks_a_mask_prompt_as_the_model_does(clip, trained, predictor):
    folder, frames, masks = clip
    expected = masks_of(run_model(trained, batch_of(frames, masks)))

    def prompt(state):
        for index in range(2):
            predictor.add_new_mask(state, 0, index + 1, masks[0, index])

    found = track(predictor, folder, prompt)
    assert expected[1:].any()
    assert not expected[1:].all()
    # On the prompted frame the predictor shows the prompt after a round trip through a quarter of
    # the size, the model shows the prompt itself.
    assert torch.equal(found[1:], expected[1:])


def test_predictor_tracks_clicks_as_the_model_does(clip, trained, predictor):
    folder, frames, masks = clip
    outputs = run_model(
        trained,
        batch_of(frames, masks),
        prob_to_use_pt_input_for_eval=1.0,
        num_correction_pt_per_frame=2,
    )
    clicks = outputs[0]["multistep_point_inputs"][-1]

    def prompt(state):
        for index in range(2):
            for k in range(3):
                predictor.add_new_points_or_box(
                    state,
                    0,
                    index + 1,
                    points=clicks["point_coords"][index, k : k + 1],
                    labels=clicks["point_labels"][index, k : k + 1],
                    clear_old_points=False,
                )

    found = track(predictor, folder, prompt)
    assert masks_of(outputs)[1:].any()
    assert torch.equal(found, masks_of(outputs))


def test_predictor_tracks_a_box_as_the_model_does(clip, trained, predictor):
    folder, frames, masks = clip
    outputs = run_model(
        trained,
        batch_of(frames, masks),
        prob_to_use_pt_input_for_eval=1.0,
        prob_to_use_box_input_for_eval=1.0,
        num_correction_pt_per_frame=1,
    )
    clicks = outputs[0]["multistep_point_inputs"][-1]

    def prompt(state):
        for index in range(2):
            predictor.add_new_points_or_box(
                state, 0, index + 1, box=clicks["point_coords"][index, :2].flatten()
            )
            predictor.add_new_points_or_box(
                state,
                0,
                index + 1,
                points=clicks["point_coords"][index, 2:],
                labels=clicks["point_labels"][index, 2:],
                clear_old_points=False,
            )

    found = track(predictor, folder, prompt)
    assert masks_of(outputs)[1:].any()
    assert torch.equal(found, masks_of(outputs))


def test_export_leaves_the_model_alone(trained, tmp_path):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    export_weights(trained, tmp_path / "best.pt", CONFIG)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name])
    assert not trained.training


def test_export_leaves_no_partial_file(trained, tmp_path):
    export_weights(trained, tmp_path / "weights" / "best.pt", CONFIG)
    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert names == ["best.pt", "best.yaml"]


def test_the_same_weights_are_the_same_bytes_whatever_the_file_is_called(trained, tmp_path):
    for name in ("one.pt", "other.pt"):
        export_weights(trained, tmp_path / name, CONFIG)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


class Named(torch.nn.Module):
    """What tells that weights are those of sam2.1_hiera_tiny: the channels and twelve blocks."""

    def state_dict(self):
        trunk = "image_encoder.trunk"
        blocks = {f"{trunk}.blocks.{k}.norm1.weight": torch.ones(1) for k in range(12)}
        return {f"{trunk}.patch_embed.proj.weight": torch.ones(96, 3), **blocks}


def test_the_file_alone_tells_the_image_size(trained, tmp_path):
    path = tmp_path / "best.pt"
    export_weights(trained, path, CONFIG)
    path.with_suffix(".yaml").unlink()
    assert find(str(path), ModelConfig()).model.image_size == SIZE

    export_weights(Named(), path, ModelConfig(architecture="sam2.1_hiera_tiny", image_size=512))
    assert find(str(path), ModelConfig()).model.image_size == 512
    chosen = find(str(path), ModelConfig(image_size=256), {"image_size"})
    assert chosen.model.image_size == 256


def test_released_files_and_earlier_exports_do_not_tell_and_are_used_at_1024_px(tmp_path):
    torch.save({"model": Named().state_dict()}, tmp_path / "best.pt")
    assert find(str(tmp_path / "best.pt"), ModelConfig()).model.image_size == 1024


def test_loading_code_runs_in_a_fresh_interpreter(trained, tmp_path):
    # The name has everything that Lightning and users put into one.
    path = tmp_path / "my run" / "best-iou=0.81.pt"
    export_weights(trained, path, CONFIG)
    code = loading_code(path, CONFIG)
    code += f"\nassert predictor.image_size == {SIZE}\nassert not predictor.training"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_loading_code_runs_where_hydra_is_in_use(trained, tmp_path):
    path = tmp_path / "best.pt"
    export_weights(trained, path, CONFIG)
    GlobalHydra.instance().clear()
    code = loading_code(path, CONFIG)
    with initialize_config_module("sam2", version_base="1.2"):
        variables = {}
        exec(code, variables)
    assert variables["predictor"].image_size == SIZE


def test_a_file_of_loading_code_finds_the_weights_where_its_folder_is_moved(trained, tmp_path):
    before, after = tmp_path / "run" / "weights", tmp_path / "it's moved" / "weights"
    export_weights(trained, before / "best.pt", CONFIG)
    (before / "load.py").write_text(loading_code(before / "best.pt", CONFIG, beside=True))
    before.parent.rename(after.parent)
    assert runpy.run_path(str(after / "load.py"))["predictor"].image_size == SIZE


def test_released_size_needs_no_overrides():
    config = ModelConfig(architecture="sam2.1_hiera_large", image_size=1024)
    assert predictor_overrides(config) == []


def test_other_sizes_of_a_released_architecture_are_overrides():
    from hydra import compose

    config = ModelConfig(architecture="sam2.1_hiera_tiny", image_size=512)
    GlobalHydra.instance().clear()
    with initialize_config_module("sam2", version_base="1.2"):
        node = compose("configs/sam2.1/sam2.1_hiera_t.yaml", predictor_overrides(config)).model
    assert node.image_size == 512
    assert node.memory_attention.layer.self_attention.feat_sizes == [32, 32]
    assert node.memory_attention.layer.cross_attention.feat_sizes == [32, 32]


@pytest.mark.slow
def test_released_architecture_loads_with_its_packaged_configuration(tmp_path):
    config = ModelConfig(architecture="sam2.1_hiera_tiny", image_size=512)
    path = tmp_path / "best.pt"
    assert export_weights(build_model(config), path, config) == "configs/sam2.1/sam2.1_hiera_t.yaml"
    assert not path.with_suffix(".yaml").exists()
    GlobalHydra.instance().clear()
    variables = {}
    exec(loading_code(path, config), variables)
    assert variables["predictor"].image_size == 512


@pytest.fixture
def checkpoint(trained, tmp_path):
    path = tmp_path / "last.ckpt"
    config = Config(model=CONFIG)
    torch.save(
        {
            "state_dict": {f"model.{name}": v for name, v in trained.state_dict().items()},
            "hyper_parameters": {"config": dataclasses.asdict(config)},
            "epoch": 1,
        },
        path,
    )
    return path


def test_export_checkpoint_writes_the_weights_beside_it(checkpoint, trained):
    path = export_checkpoint(checkpoint)
    assert path == checkpoint.with_suffix(".pt")
    weights = torch.load(path, weights_only=True)["model"]
    assert weights.keys() == trained.state_dict().keys()
    assert torch.equal(weights["no_mem_embed"], trained.no_mem_embed)


@pytest.mark.parametrize("name", ["sam2.1-hiera-tiny", "sam2.1-hiera-large"])
def test_results_of_a_folder_have_its_whole_name(tmp_path, name):
    """A dot in a folder's name begins no suffix, so that two models never share a file."""
    (tmp_path / name).mkdir()
    assert _beside(tmp_path / name, "meta") == tmp_path / f"{name}.pt"
    assert _beside(tmp_path / f"{name}.ckpt", "hf") == tmp_path / name
    weights = Weights(tmp_path / name, ModelConfig())
    assert weights.default_out("evaluation") == tmp_path / f"{name}_evaluation"


def test_command_line_prints_the_lines_that_load_the_file(checkpoint, tmp_path, capsys):
    out = tmp_path / "out.pt"
    assert main([str(checkpoint), str(out)]) == 0
    assert out.is_file()
    said = capsys.readouterr().out
    assert said.startswith(f"{out} written from {checkpoint}; load it with\n")
    assert loading_code(out, CONFIG) in said


def test_the_weights_of_a_run_are_exported_again(trained, tmp_path, capsys):
    """A run's folder, its `weights/best.pt` and a copy that lies anywhere."""
    (tmp_path / "run" / "weights").mkdir(parents=True)
    best, out = tmp_path / "run" / "weights" / "best.pt", tmp_path / "out.pt"
    export_weights(trained, best, CONFIG)
    OmegaConf.save(OmegaConf.structured(Config(model=CONFIG)), tmp_path / "run" / "config.yaml")
    copy = shutil.copy(best, tmp_path / "copy.pt")
    for named in (tmp_path / "run", best, copy):
        assert main([str(named), str(out)]) == 0
        assert loading_code(out, CONFIG) in capsys.readouterr().out
        assert out.read_bytes() == best.read_bytes()
    assert main([str(tmp_path / "run")]) == 1
    assert "best.pt: choose another output file" in capsys.readouterr().err


def test_command_line_names_a_missing_checkpoint(tmp_path, capsys):
    assert main([str(tmp_path / "no.ckpt")]) == 1
    assert "no.ckpt does not exist" in capsys.readouterr().err


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"checkpoint=.*other\.ckpt must hold"):
        export_checkpoint(tmp_path / "other.ckpt")


def test_a_model_of_the_hub_is_written_where_one_says(trained, tmp_path, monkeypatch, capsys):
    """Not into the folder in which `huggingface_hub` keeps it."""
    monkeypatch.setattr(
        "core.model.known_weights.local_path", lambda *_: tmp_path / "kept" / "weights.pt"
    )
    (tmp_path / "kept").mkdir()
    export_weights(trained, tmp_path / "kept" / "weights.pt", CONFIG)
    assert main(["hf:owner/name"]) == 1
    assert "checkpoint=hf:owner/name: say which file" in capsys.readouterr().err
    assert main(["hf:owner/name", str(tmp_path / "out.pt")]) == 0


def test_checkpoint_is_never_overwritten(checkpoint):
    with pytest.raises(CheckpointError, match="this is the checkpoint itself"):
        export_checkpoint(checkpoint, checkpoint)
