"""Writes weights as files that Meta's own predictor loads as they are.

``python -m core.export CHECKPOINT.ckpt [OUT.pt]`` does it for a Lightning checkpoint and prints the
lines of Python that load the result.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Optional, Union

import torch
from omegaconf import OmegaConf
from torch import nn

from .config import ModelConfig
from .model import (
    PACKAGED_CONFIGS,
    CheckpointError,
    architecture_node,
    build_model,
    load_weights,
    read_checkpoint,
    size_overrides,
)

_PACKAGED_IMAGE_SIZE = 1024


def export_weights(model: nn.Module, path: Union[str, Path], config: ModelConfig) -> str:
    """Write the weights of `model` for ``sam2.build_sam.build_sam2_video_predictor``.

    ``tiny`` has no YAML inside the ``sam2`` package: one is written beside the weights, under the
    same name. `loading_code` gives the lines that load the file.

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
    partial = path.with_name(f"{path.name}.part")
    torch.save({"model": weights}, partial)
    partial.replace(path)
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
    if config.architecture not in PACKAGED_CONFIGS or config.image_size == _PACKAGED_IMAGE_SIZE:
        return []
    return [
        f"++model.{key}={value}".replace(" ", "")
        for key, value in size_overrides(config.image_size).items()
    ]


def loading_code(path: Union[str, Path], config: ModelConfig) -> str:
    """Return the lines of Python that load exported weights into Meta's video predictor.

    They work in a fresh interpreter and also where Hydra is in use for something else. The
    predictor does no more than training did: Meta's post-processing is off.
    """
    path = Path(path).resolve()
    overrides = predictor_overrides(config)
    arguments = [f'"{config_name(path, config)}"', f'"{path}"', "device=device"]
    # Its default chooses among masks that may never have been trained, and fills holes.
    arguments.append("apply_postprocessing=False")
    if overrides:
        arguments.append(f"hydra_overrides_extra={overrides}")
    call = f"build_sam2_video_predictor({', '.join(arguments)})"
    if config.architecture in PACKAGED_CONFIGS:
        context = 'initialize_config_module("sam2", version_base="1.2")'
    else:
        context = f'initialize_config_dir("{path.parent}", version_base="1.2")'
    return "\n".join(
        [
            "import torch",
            f"from hydra import {context.split('(')[0]}",
            "from hydra.core.global_hydra import GlobalHydra",
            "from sam2.build_sam import build_sam2_video_predictor",
            "",
            "GlobalHydra.instance().clear()",
            'device = "cuda" if torch.cuda.is_available() else "cpu"',
            f"with {context}:",
            f"    predictor = {call}",
        ]
    )


def export_checkpoint(checkpoint: Union[str, Path], path: Union[str, Path, None] = None) -> Path:
    """Export a Lightning checkpoint of this program.

    Args:
        checkpoint: A ``.ckpt`` whose ``hyper_parameters`` hold the configuration under ``config``.
        path: The file to write; None: beside the checkpoint, with the suffix ``.pt``.

    Returns:
        The file written.

    Raises:
        CheckpointError: The checkpoint is missing, unreadable, without configuration, or does not
            fit the model that its configuration describes.
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    checkpoint = Path(checkpoint)
    path = checkpoint.with_suffix(".pt") if path is None else Path(path)
    if path.resolve() == checkpoint.resolve():
        raise CheckpointError(f"{path}: choose another output file: this is the checkpoint itself")
    config = stored_config(checkpoint)
    model = build_model(config)
    load_weights(model, checkpoint)
    export_weights(model, path, config)
    return path


def stored_config(checkpoint: Union[str, Path]) -> ModelConfig:
    """Return the model section stored in a Lightning checkpoint of this program.

    Raises:
        CheckpointError: The checkpoint is missing, unreadable or without configuration.
    """
    content: Any = read_checkpoint(Path(checkpoint), "checkpoint")
    try:
        return ModelConfig(**content["hyper_parameters"]["config"]["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint} was not written by train.py: no readable configuration is stored in it "
            f"({type(error).__name__}: {error})"
        ) from error


def main(arguments: Optional[list[str]] = None) -> int:
    """Export the checkpoint named on the command line and print how to load it."""
    parser = argparse.ArgumentParser(
        prog="python -m core.export",
        description="Write a checkpoint of train.py as a file that Meta's SAM 2 predictor loads.",
    )
    parser.add_argument("checkpoint", help="a Lightning checkpoint (.ckpt)")
    parser.add_argument("out", nargs="?", help="the file to write; default: CHECKPOINT.pt")
    options = parser.parse_args(arguments)
    try:
        path = export_checkpoint(options.checkpoint, options.out)
    except (CheckpointError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path} written; load it with\n")
    print(loading_code(path, stored_config(options.checkpoint)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
