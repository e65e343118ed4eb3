"""Writes weights as files that Meta's own predictor or Hugging Face's loads as they are.

``python -m core.export WEIGHTS [OUT] [--format hf]`` does it for weights of any format that is
known here, and prints the lines of Python that load the result.
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Union

import torch
from omegaconf import OmegaConf
from torch import nn

from .checks import UserError
from .config import ModelConfig
from .files import name_of, whole_file
from .model import hugging_face
from .model.adapters import write_adapters
from .model.build import (
    PACKAGED_CONFIGS,
    PACKAGED_IMAGE_SIZE,
    architecture_node,
    build_model,
    size_overrides,
)
from .model.known_weights import KnownWeights
from .model.loading import read_weights
from .model.weights import IMAGE_SIZE, CheckpointError


def export_weights(model: nn.Module, path: Union[str, Path], config: ModelConfig) -> str:
    """Write the weights of `model` for ``sam2.build_sam.build_sam2_video_predictor``.

    ``tiny`` has no YAML inside the ``sam2`` package: one is written beside the weights, under the
    same name. `loading_code` gives the lines that load the file. The image size stands beside the
    weights, for `core.evaluate` and `core.predict`.

    Args:
        model: What `build_model` returned, on any device; not changed.
        path: The ``.pt`` file; its folder is made, an older file is replaced at the end only.
        config: The model section that `model` was built from.

    Returns:
        The configuration name to give to the predictor, together with `predictor_overrides`.

    Raises:
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    # into an open file: a path would stand in the archive, which would differ each time
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save({"model": weights, IMAGE_SIZE: config.image_size}, file)
    if config.architecture not in PACKAGED_CONFIGS:
        node = OmegaConf.create({"model": architecture_node(config)})
        text = "# @package _global_\n" + OmegaConf.to_yaml(node)
        path.with_suffix(".yaml").write_text(text)
    return config_name(path, config)


def config_name(path: Union[str, Path], config: ModelConfig) -> str:
    """Return the configuration name that goes with exported weights."""
    return PACKAGED_CONFIGS.get(config.architecture, Path(path).with_suffix(".yaml").name)


def predictor_overrides(config: ModelConfig) -> list[str]:
    """Return the ``hydra_overrides_extra`` that the packaged configuration needs.

    Without them the weights load all the same, but the predictor works at 1024 pixels instead of
    the size that the model was trained at.
    """
    if config.architecture not in PACKAGED_CONFIGS or config.image_size == PACKAGED_IMAGE_SIZE:
        return []
    return [
        f"++model.{key}={value}".replace(" ", "")
        for key, value in size_overrides(config.image_size).items()
    ]


def loading_code(path: Union[str, Path], config: ModelConfig, beside: bool = False) -> str:
    """Return the lines of Python that load exported weights into Meta's video predictor.

    They work in a fresh interpreter and also where Hydra is in use for something else. The
    predictor does no more than training did: Meta's post-processing is off.

    Args:
        path: The exported weights.
        config: The model section that they were exported with.
        beside: The lines are for a file beside the weights, and find them where the folder is moved
            to; otherwise they name the folder as it is now.
    """
    path = Path(path).resolve()
    folder = "Path(__file__).resolve().parent" if beside else f"Path({str(path.parent)!r})"
    overrides = predictor_overrides(config)
    weights = f"str(folder / {path.name!r})"
    arguments = [repr(config_name(path, config)), weights, "device=device"]
    # Its default chooses among masks that may never have been trained, and fills holes.
    arguments.append("apply_postprocessing=False")
    if overrides:
        arguments.append(f"hydra_overrides_extra={overrides}")
    call = f"build_sam2_video_predictor({', '.join(arguments)})"
    if config.architecture in PACKAGED_CONFIGS:
        context = 'initialize_config_module("sam2", version_base="1.2")'
    else:
        context = 'initialize_config_dir(str(folder), version_base="1.2")'
    return "\n".join(
        [
            "from pathlib import Path",
            "",
            "import torch",
            f"from hydra import {context.split('(')[0]}",
            "from hydra.core.global_hydra import GlobalHydra",
            "from sam2.build_sam import build_sam2_video_predictor",
            "",
            f"folder = {folder}",
            "GlobalHydra.instance().clear()",
            'device = "cuda" if torch.cuda.is_available() else "cpu"',
            f"with {context}:",
            f"    predictor = {call}",
        ]
    )


def export_folder(model: nn.Module, folder: Union[str, Path], config: ModelConfig) -> None:
    """Write the weights of `model` for Hugging Face's ``Sam2VideoModel.from_pretrained``.

    Args:
        model: What `build_model` returned, on any device; not changed.
        folder: Made where it is missing.
        config: The model section that `model` was built from.

    Raises:
        CheckpointError: Hugging Face has no such architecture.
    """
    hugging_face.write_folder(
        model.state_dict(), Path(folder), config.architecture, config.image_size
    )


def export_checkpoint(
    checkpoint: Union[str, Path],
    path: Union[str, Path, None] = None,
    file_format: str = "meta",
    base: Optional[str] = None,
) -> Path:
    """Export weights of any format that is known here; adapters are merged into the weights.

    Args:
        checkpoint: What `core.model.known_weights.KnownWeights.find` takes.
        path: The file to write, or the folder with `file_format` ``hf``; None: beside the
            checkpoint, with the suffix ``.pt`` or without one, or as ``adapter_NAME.safetensors``.
        file_format: ``meta`` or ``hf``, see `export_weights` and `export_folder`, or ``adapters``,
            see `core.model.adapters.write_adapters`.
        base: What a file of adapters belongs to; None: what its run started from, or what lies
            beside it.

    Returns:
        What was written.

    Raises:
        CheckpointError: The checkpoint is missing, unreadable, does not tell its model or does not
            fit it, or the format has no such model.
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    return _export(_find(checkpoint, base), path, file_format)


def _find(checkpoint: Union[str, Path], base: Optional[str]) -> KnownWeights:
    return KnownWeights.find(
        str(checkpoint), ModelConfig(), name="checkpoint", base=base, base_name="--base"
    )


def _export(weights: KnownWeights, path: Union[str, Path, None], file_format: str) -> Path:
    if path is None and weights.hub is not None:
        raise CheckpointError(f"checkpoint={weights.hub}: say which file or folder to write")
    path = _beside(weights.path, file_format) if path is None else Path(path)
    if path.resolve() == weights.path.resolve():
        raise CheckpointError(f"{path}: choose another output file: this is the checkpoint itself")
    config = weights.model
    if file_format == "adapters":
        write_adapters(read_weights(weights.path, weights.name).weights, path, config)
        return path
    if file_format == "hf":
        _check_folder(path)
        hugging_face.check_architecture(config.architecture)
    model = build_model(config)
    weights.load_into(model)
    if file_format == "hf":
        export_folder(model, path, config)
    else:
        export_weights(model, path, config)
    return path


def _beside(checkpoint: Path, file_format: str) -> Path:
    name = name_of(checkpoint)
    names = {"adapters": f"adapter_{name}.safetensors", "hf": name, "meta": f"{name}.pt"}
    return checkpoint.with_name(names[file_format])


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file, expected the name of a folder for --format hf")


def main(arguments: Optional[list[str]] = None) -> int:
    """Export the checkpoint named on the command line and print how to load it."""
    parser = argparse.ArgumentParser(
        prog="python -m core.export",
        description="Write weights for Meta's predictor or for Hugging Face.",
    )
    parser.add_argument(
        "checkpoint",
        help="a run's folder (its best weights), a .ckpt or .pt, a folder of Hugging Face's or "
        "hf:OWNER/NAME[@REVISION] of its hub, or a file of adapters",
    )
    parser.add_argument(
        "out",
        nargs="?",
        help="the file (meta, adapters) or folder (hf) to write; default: CHECKPOINT.pt, "
        "CHECKPOINT/, adapter_CHECKPOINT.safetensors",
    )
    parser.add_argument(
        "--format",
        choices=("meta", "hf", "adapters"),
        default="meta",
        help="a file for Meta's predictor, a folder for Hugging Face's Sam2VideoModel, or the "
        "adapters alone",
    )
    parser.add_argument(
        "--base",
        metavar="PATH",
        help="the weights that a file of adapters belongs to; default: those that its run started "
        "from, or the file of their name beside it",
    )
    options = parser.parse_args(arguments)
    try:
        weights = _find(options.checkpoint, options.base)
        path = _export(weights, options.out, options.format)
    except (UserError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    said = f"{path} written from {weights}"
    if options.format == "adapters":
        print(f"{said}; python -m core.export {path} --base PATH merges it again")
        return 0
    print(f"{said}; load it with\n")
    if options.format == "hf":
        print(hugging_face.loading_code(path))
    else:
        print(loading_code(path, weights.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
