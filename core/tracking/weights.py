"""A run, a checkpoint or a file of weights as Meta's predictor."""

import contextlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf

from ..config import ModelConfig
from ..files import name_of
from ..model.adapters import find_base, read_adapters
from ..model.build import architecture_node
from ..model.known_weights import KnownWeights
from ..model.weights import CheckpointError
from ..overrides import override_keys

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

# What `sam2.build_sam` calls post-processing. Training does nothing of the kind.
_POSTPROCESSING = {
    "sam_mask_decoder_extra_args.dynamic_multimask_via_stability": True,
    "sam_mask_decoder_extra_args.dynamic_multimask_stability_delta": 0.05,
    "sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh": 0.98,
    "binarize_mask_from_pts_for_mem_enc": True,
    "fill_hole_area": 8,
}


class Weights(KnownWeights):
    """Weights to track with."""

    @property
    def prompt_type(self) -> str:
        """What the weights were trained to be prompted with, ``mixed`` where it is unknown."""
        return "mixed" if self.config is None else self.config.model.prompt_type

    def released(self, named: str) -> str:
        """Return the weights that training started from for ``released``, others as they are named.

        For adapters these are their base.

        Raises:
            CheckpointError: They are not known.
        """
        if named != "released":
            return named
        if self.base is not None:
            return self.base
        adapters = read_adapters(self.path)
        if adapters is not None:
            return find_base(adapters, self.base_name)
        if self.config is None or self.config.model.checkpoint_path is None:
            raise CheckpointError(
                "compare=released: the run started from no released weights, expected the path of a"
                " file"
            )
        return self.config.model.checkpoint_path

    def default_out(self, what: str) -> Path:
        """Return where results of these weights go: below their run, otherwise beside the file."""
        if self.run_dir is not None:
            return self.run_dir / what
        if self.hub is not None:
            return Path(f"{self.hub.partition('@')[0].rpartition('/')[2]}_{what}")
        return self.path.parent / f"{name_of(self.path)}_{what}"


def chosen_of_model(overrides: Sequence[str]) -> set[str]:
    """Return the fields of the model section that the command line names."""
    keys = override_keys(overrides)
    names = {item.name for item in fields(ModelConfig)}
    chosen = {key.removeprefix("model.") for key in keys if key.startswith("model.")} & names
    return chosen | ({"architecture"} if "model" in keys else set())


find = Weights.find


def build_predictor(
    weights: KnownWeights, device: torch.device, postprocessing: bool = False
) -> "SAM2VideoPredictor":
    """Return Meta's video predictor with these weights.

    Args:
        weights: What `find` returned.
        device: Where it computes.
        postprocessing: What Meta's ``build_sam2_video_predictor`` does by default: it chooses among
            masks and fills holes, which training does not do and `tiny` was never trained for.

    Raises:
        CheckpointError: The weights do not fit the model.
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    from hydra.utils import instantiate

    node = architecture_node(weights.model)
    node["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    for key, value in (_POSTPROCESSING if postprocessing else {}).items():
        OmegaConf.update(node, key, value, force_add=True)
    # sam2 puts tables on the current GPU when it builds a model.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        predictor = instantiate(node, _convert_="all")
    weights.load_into(predictor)
    return predictor.to(device).eval()
