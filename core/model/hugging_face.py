"""Reads and writes the files that Hugging Face's ``Sam2VideoModel`` is stored in.

A folder holds ``config.json`` and ``model.safetensors``, or its shards and their index. The tensors
are those of Meta's files, bit for bit, under other names. Two differ in more than the name: the
four point embeddings are the rows of one tensor, and the matrix of positional encodings is there
twice.
``safetensors`` and ``huggingface_hub`` are imported only where such files are read or written.
"""

import json
import re
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from .lora import is_adapter
from .weights import CheckpointError, FoundWeights, write_safetensors

# Where a reference to the hub begins, as in hf:facebook/sam2.1-hiera-tiny@main.
HUB = "hf:"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"

# Every field: transformers 5.5 and 5.15, among others, fill in the prompt encoder's otherwise. The
# default chooses among masks by stability, Meta's post-processing, which training does not do.
_MASK_DECODER = {
    "hidden_size": 256,
    "hidden_act": "gelu",
    "mlp_dim": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "attention_downsample_rate": 2,
    "num_multimask_outputs": 3,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 256,
    "dynamic_multimask_via_stability": False,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}

# Meta's name and Hugging Face's. `#` is a number, `%` a name without dots, `?` one of q, k and v,
# and a name that ends with a dot stands for its weight and its bias.
_NAMES = (
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("obj_ptr_tpos_proj.", "temporal_positional_encoding_projection_layer."),
    ("mask_downsample.", "mask_downsample."),
    ("obj_ptr_proj.layers.0.", "object_pointer_proj.proj_in."),
    ("obj_ptr_proj.layers.1.", "object_pointer_proj.layers.0."),
    ("obj_ptr_proj.layers.2.", "object_pointer_proj.proj_out."),
    ("image_encoder.trunk.pos_embed", "vision_encoder.backbone.pos_embed"),
    ("image_encoder.trunk.pos_embed_window", "vision_encoder.backbone.pos_embed_window"),
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.backbone.patch_embed.projection."),
    ("image_encoder.trunk.blocks.#.norm#.", "vision_encoder.backbone.blocks.#.layer_norm#."),
    ("image_encoder.trunk.blocks.#.attn.%.", "vision_encoder.backbone.blocks.#.attn.%."),
    ("image_encoder.trunk.blocks.#.mlp.layers.0.", "vision_encoder.backbone.blocks.#.mlp.proj_in."),
    (
        "image_encoder.trunk.blocks.#.mlp.layers.1.",
        "vision_encoder.backbone.blocks.#.mlp.proj_out.",
    ),
    ("image_encoder.trunk.blocks.#.proj.", "vision_encoder.backbone.blocks.#.proj."),
    ("image_encoder.neck.convs.#.conv.", "vision_encoder.neck.convs.#."),
    ("memory_attention.layers.#.%.?_proj.", "memory_attention.layers.#.%.?_proj."),
    ("memory_attention.layers.#.%.out_proj.", "memory_attention.layers.#.%.o_proj."),
    ("memory_attention.layers.#.linear#.", "memory_attention.layers.#.linear#."),
    ("memory_attention.layers.#.norm#.", "memory_attention.layers.#.layer_norm#."),
    ("memory_attention.norm.", "memory_attention.layer_norm."),
    *(
        (
            f"memory_encoder.mask_downsampler.encoder.{3 * layer + part}.",
            f"memory_encoder.mask_downsampler.layers.{layer}.{name}.",
        )
        for layer in range(4)
        for part, name in enumerate(("conv", "layer_norm"))
    ),
    ("memory_encoder.mask_downsampler.encoder.12.", "memory_encoder.mask_downsampler.final_conv."),
    ("memory_encoder.pix_feat_proj.", "memory_encoder.feature_projection."),
    ("memory_encoder.fuser.layers.#.gamma", "memory_encoder.memory_fuser.layers.#.scale"),
    (
        "memory_encoder.fuser.layers.#.dwconv.",
        "memory_encoder.memory_fuser.layers.#.depthwise_conv.",
    ),
    ("memory_encoder.fuser.layers.#.norm.", "memory_encoder.memory_fuser.layers.#.layer_norm."),
    (
        "memory_encoder.fuser.layers.#.pwconv#.",
        "memory_encoder.memory_fuser.layers.#.pointwise_conv#.",
    ),
    ("memory_encoder.out_proj.", "memory_encoder.projection."),
    ("sam_prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    ("sam_prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    *(
        (f"sam_prompt_encoder.mask_downscaling.{index}.", f"prompt_encoder.mask_embed.{name}.")
        for index, name in (
            (0, "conv1"),
            (1, "layer_norm1"),
            (3, "conv2"),
            (4, "layer_norm2"),
            (6, "conv3"),
        )
    ),
    *(
        (f"sam_mask_decoder.{name}.weight", f"mask_decoder.{name}.weight")
        for name in ("iou_token", "mask_tokens", "obj_score_token")
    ),
    ("sam_mask_decoder.conv_s#.", "mask_decoder.conv_s#."),
    ("sam_mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("sam_mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("sam_mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    *(
        (f"sam_mask_decoder.{head}.layers.{index}.", f"mask_decoder.{head}.{name}.")
        for head in (
            "iou_prediction_head",
            "pred_obj_score_head",
            "output_hypernetworks_mlps.#",
        )
        for index, name in enumerate(("proj_in", "layers.0", "proj_out"))
    ),
    (
        "sam_mask_decoder.transformer.layers.#.%.?_proj.",
        "mask_decoder.transformer.layers.#.%.?_proj.",
    ),
    (
        "sam_mask_decoder.transformer.layers.#.%.out_proj.",
        "mask_decoder.transformer.layers.#.%.o_proj.",
    ),
    (
        "sam_mask_decoder.transformer.layers.#.mlp.layers.0.",
        "mask_decoder.transformer.layers.#.mlp.proj_in.",
    ),
    (
        "sam_mask_decoder.transformer.layers.#.mlp.layers.1.",
        "mask_decoder.transformer.layers.#.mlp.proj_out.",
    ),
    (
        "sam_mask_decoder.transformer.layers.#.norm#.",
        "mask_decoder.transformer.layers.#.layer_norm#.",
    ),
    (
        "sam_mask_decoder.transformer.final_attn_token_to_image.?_proj.",
        "mask_decoder.transformer.final_attn_token_to_image.?_proj.",
    ),
    (
        "sam_mask_decoder.transformer.final_attn_token_to_image.out_proj.",
        "mask_decoder.transformer.final_attn_token_to_image.o_proj.",
    ),
    (
        "sam_mask_decoder.transformer.norm_final_attn.",
        "mask_decoder.transformer.layer_norm_final_attn.",
    ),
)
_GROUPS = {"#": r"(\d+)", "%": r"(\w+)", "?": r"([qkv])"}

_POINTS = "sam_prompt_encoder.point_embeddings.{}.weight"
_POINTS_HF = "prompt_encoder.point_embed.weight"
_MATRIX = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_MATRICES_HF = (
    "prompt_encoder.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)

# What the shapes of the tensors do not tell: `vision_config.backbone_config` of each architecture.
_BACKBONES: dict[str, dict[str, Any]] = {
    "sam2.1_hiera_tiny": {
        "hidden_size": 96,
        "blocks_per_stage": [1, 2, 7, 2],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "global_attention_blocks": [5, 7, 9],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [7, 7],
    },
    "sam2.1_hiera_small": {
        "hidden_size": 96,
        "blocks_per_stage": [1, 2, 11, 2],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "global_attention_blocks": [7, 10, 13],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [7, 7],
    },
    "sam2.1_hiera_base_plus": {
        "hidden_size": 112,
        "blocks_per_stage": [2, 3, 16, 3],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "global_attention_blocks": [12, 16, 20],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [14, 14],
    },
    "sam2.1_hiera_large": {
        "hidden_size": 144,
        "blocks_per_stage": [2, 6, 36, 4],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
        "window_positional_embedding_background_size": [7, 7],
    },
}


def is_hugging_face(path: Union[str, Path]) -> bool:
    """Return whether a path names a file or folder of Hugging Face's, or a model of its hub."""
    return str(path).startswith(HUB) or Path(path).suffix == ".safetensors" or Path(path).is_dir()


def read_hugging_face(path: Union[str, Path], name: str = "model.checkpoint_path") -> FoundWeights:
    """Return the weights of a ``Sam2VideoModel`` under SAM 2's own names, in float32.

    Args:
        path: A folder, its ``model.safetensors`` alone, or ``hf:OWNER/NAME[@REVISION]``, which is
            downloaded once and kept by ``huggingface_hub``.
        name: What messages call it: the setting that named it.

    Raises:
        CheckpointError: There is no such file, it is damaged, holds another model, or a tensor has
            no counterpart.
    """
    where, local = f"{name}={path}", local_path(path, name)
    tensors = _read_tensors(local, where)
    if any(map(is_adapter, tensors)):
        raise CheckpointError(
            f"{where} holds adapters: merge them with python -m core.export {path} OUT.pt"
        )
    weights = to_official(tensors, where)
    if local.is_dir():
        _check_config(local / "config.json", weights, where)
    note, size = "in Hugging Face's format", _image_size_of(local)
    return FoundWeights(weights, "model", "", note, size)


def local_path(path: Union[str, Path], name: str) -> Path:
    """Return where weights lie on this machine; a model of the hub is downloaded once.

    Args:
        path: See `read_hugging_face`; other paths are returned as they are.
        name: What messages call it: the setting that named it.

    Raises:
        CheckpointError: The model cannot be downloaded.
    """
    if not str(path).startswith(HUB):
        return Path(path)
    return _download(str(path), f"{name}={path}")


def holds_weights(folder: Path) -> bool:
    """Return whether a folder is one of Hugging Face's."""
    return (folder / WEIGHTS_FILE).is_file() or (folder / INDEX_FILE).is_file()


def to_official(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of a ``Sam2VideoModel`` under SAM 2's own names, in float32.

    Args:
        tensors: All tensors of the file.
        where: What messages begin with.

    Raises:
        CheckpointError: The file is an image model's, its two copies of the positional matrix
            differ or one is missing, or a name is unknown.
    """
    if not any(name.startswith("memory_") for name in tensors):
        raise CheckpointError(
            f"{where} has no memory: expected the weights of a Sam2VideoModel, "
            f"{'those of a Sam2Model track nothing' if _MATRICES_HF[1] in tensors else 'not these'}"
        )
    rest = {name: value.float() for name, value in tensors.items()}
    matrices = [rest.pop(name, None) for name in _MATRICES_HF]
    points = rest.pop(_POINTS_HF, None)
    weights = {}
    for name, value in rest.items():
        own = _translate(name, _TO_OFFICIAL)
        if own is None:
            raise CheckpointError(f"{where}: no SAM 2 has the tensor {name}")
        weights[own] = value
    if points is None or points.ndim != 2 or len(points) != 4:
        found = "nothing" if points is None else f"shape {list(points.shape)}"
        raise CheckpointError(f"{where}: {_POINTS_HF} must have 4 rows, found {found}")
    for index in range(4):
        weights[_POINTS.format(index)] = points[index : index + 1].clone()
    weights[_MATRIX] = _the_one_of(matrices, where)
    return weights


def _the_one_of(matrices: list[Optional[Tensor]], where: str) -> Tensor:
    first, second = matrices
    if first is None or second is None:
        lacking = _MATRICES_HF[0 if first is None else 1]
        raise CheckpointError(f"{where}: the tensor {lacking} is missing")
    if not torch.equal(first, second):
        raise CheckpointError(
            f"{where}: {' and '.join(_MATRICES_HF)} must be equal, they are two copies of one "
            "matrix; found others"
        )
    return first


def from_official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return SAM 2's weights under the names of ``Sam2VideoModel``, contiguous and unshared.

    Args:
        weights: All tensors of a released architecture.

    Raises:
        CheckpointError: A name has no counterpart.
    """
    rest = dict(weights)
    matrix = rest.pop(_MATRIX)
    points = [rest.pop(_POINTS.format(index)) for index in range(4)]
    tensors = {_POINTS_HF: torch.cat(points)}
    for name in _MATRICES_HF:
        tensors[name] = matrix.clone()
    for name, value in rest.items():
        theirs = _translate(name, _FROM_OFFICIAL)
        if theirs is None:
            raise CheckpointError(f"{name} has no counterpart in Hugging Face's Sam2VideoModel")
        tensors[theirs] = value
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def write_folder(
    weights: dict[str, Tensor], folder: Path, architecture: str, image_size: int
) -> None:
    """Write what ``Sam2VideoModel`` and ``Sam2VideoProcessor`` load with ``from_pretrained``.

    Args:
        weights: All tensors of the model, by SAM 2's own names.
        folder: Made where it is missing; files of these names in it are replaced.
        architecture: One of the four released ones.
        image_size: The side of the frames, in pixels, that the model was trained with.

    Raises:
        CheckpointError: Hugging Face has no such architecture.
    """
    check_architecture(architecture)
    write_safetensors(from_official(weights), folder / WEIGHTS_FILE, {"format": "pt"})
    _write_json(folder / "config.json", model_config(architecture, image_size, weights))
    _write_json(folder / "processor_config.json", _processor_config(image_size))


def check_architecture(architecture: str) -> None:
    """Raise CheckpointError for an architecture that Hugging Face does not have."""
    if architecture not in _BACKBONES:
        raise CheckpointError(
            f"model.architecture={architecture} cannot be exported to Hugging Face: Sam2VideoModel "
            "needs features wider than its memory, which this one has not; expected one of "
            f"{', '.join(_BACKBONES)}"
        )


def model_config(architecture: str, image_size: int, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return ``config.json``, with every field that the image size decides.

    Left at its default, ``image_size`` gives other masks from the second frame on without a word.
    The decoder chooses among its masks as in training.

    Args:
        architecture: One of the four released ones.
        image_size: The side of the frames in pixels.
        weights: By SAM 2's own names; those of SAM 2.0 lack what 2.1 added.
    """
    backbone = dict(_BACKBONES[architecture])
    widths = [backbone["hidden_size"] * 2**stage for stage in range(4)]
    sides = [image_size // stride for stride in (4, 8, 16)]
    return {
        "architectures": ["Sam2VideoModel"],
        "model_type": "sam2_video",
        "dtype": "float32",
        "image_size": image_size,
        "enable_temporal_pos_encoding_for_object_pointers": "obj_ptr_tpos_proj.weight" in weights,
        "enable_occlusion_spatial_embedding": "no_obj_embed_spatial" in weights,
        "memory_attention_rope_feat_sizes": [sides[2], sides[2]],
        "prompt_encoder_config": {"image_size": image_size},
        "mask_decoder_config": dict(_MASK_DECODER),
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[side, side] for side in sides],
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [image_size, image_size],
                "embed_dim_per_stage": widths,
                **backbone,
            },
        },
    }


def _processor_config(image_size: int) -> dict[str, Any]:
    size = {"height": image_size, "width": image_size}
    side = image_size // 4
    return {
        "processor_class": "Sam2VideoProcessor",
        "target_size": image_size,
        "point_pad_value": -10,
        "image_processor": {
            "image_processor_type": "Sam2ImageProcessor",
            "size": size,
            "mask_size": {"height": side, "width": side},
        },
        "video_processor": {"video_processor_type": "Sam2VideoVideoProcessor", "size": size},
    }


def loading_code(folder: Union[str, Path]) -> str:
    """Return the lines of Python that load an exported folder, without a network."""
    folder = str(Path(folder).resolve())
    return "\n".join(
        [
            "from transformers import Sam2VideoModel, Sam2VideoProcessor",
            "",
            f"model = Sam2VideoModel.from_pretrained({folder!r})",
            f"processor = Sam2VideoProcessor.from_pretrained({folder!r})",
        ]
    )


def _pattern(template: str, groups: dict[str, str]) -> str:
    pattern = "".join(groups.get(letter, re.escape(letter)) for letter in template)
    return pattern + "(weight|bias)" if template.endswith(".") else pattern


def _replacement(template: str) -> str:
    count = 0
    parts = []
    for letter in template + ("#" if template.endswith(".") else ""):
        count += letter in _GROUPS
        parts.append(f"\\g<{count}>" if letter in _GROUPS else letter)
    return "".join(parts)


_TO_OFFICIAL = [(re.compile(_pattern(hf, _GROUPS)), _replacement(own)) for own, hf in _NAMES]
_FROM_OFFICIAL = [(re.compile(_pattern(own, _GROUPS)), _replacement(hf)) for own, hf in _NAMES]


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> Optional[str]:
    for pattern, replacement in table:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None


def _read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in _files_of(path, where):
        tensors.update(_read_file(file, where))
    return tensors


def _files_of(path: Path, where: str) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"{where} does not exist, expected a .safetensors file")
        return [path]
    if (path / WEIGHTS_FILE).is_file():
        return [path / WEIGHTS_FILE]
    index = path / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(
            f"{where} is a folder without {WEIGHTS_FILE} and without {INDEX_FILE}: expected one of "
            "Hugging Face's folders, or a .pt or .ckpt file"
        )
    shards = _read_json(index, where).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{where}: {INDEX_FILE} must name the shards that lie beside it")
    lacking = [name for name in names if not (path / name).is_file()]
    if lacking:
        raise CheckpointError(f"{where}: the shard {lacking[0]} that {INDEX_FILE} names is missing")
    return [path / name for name in names]


def _read_file(file: Path, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"{where}: {file.name} is damaged or is no safetensors file: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


def _check_config(path: Path, weights: dict[str, Tensor], where: str) -> None:
    """Refuse a trunk that works otherwise than the released one of its shapes."""
    if not path.is_file():
        return
    found = _read_json(path, where).get("vision_config")
    found = found.get("backbone_config") if isinstance(found, dict) else None
    num_blocks = len({name.split(".")[3] for name in weights if ".trunk.blocks." in name})
    for released in _BACKBONES.values():
        if sum(released["blocks_per_stage"]) != num_blocks or not isinstance(found, dict):
            continue
        for name in ("global_attention_blocks", "window_size_per_stage"):
            if found.get(name, released[name]) != released[name]:
                raise CheckpointError(
                    f"{where}: {name} of config.json must be {released[name]}, got {found[name]}"
                )


def _image_size_of(path: Path) -> Optional[int]:
    """Return the image size in the ``config.json`` of a folder or beside a file, None without."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    size = _read_json(config, str(path)).get("image_size") if config.is_file() else None
    return size if isinstance(size, int) else None


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{where}: {path.name} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: {path.name} must hold an object")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _download(reference: str, where: str) -> Path:
    """Return the folder in which ``huggingface_hub`` keeps a model of the hub."""
    name, _, revision = reference.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{where} must be {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{where} needs huggingface_hub: pip install -c constraints.txt -e '.[hub]', or give "
            "the path of a folder"
        ) from error
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=["*.safetensors", "*.json"]
        )
    except Exception as error:
        # Whatever the hub, the network or the disk says: the first line tells it.
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"{where} could not be downloaded and is not kept from before: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    return Path(folder)
