"""A run, a checkpoint or a file of weights as Meta's predictor."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checks import UserError
from ..config import Config, ModelConfig, config_of
from ..model.adapters import find_base, put_on_base, read_adapters
from ..model.build import architecture_node
from ..model.hugging_face import HUB, holds_weights, is_hugging_face, local_path
from ..model.loading import load_found, model_config_from, read_weights
from ..model.lora import inject, is_adapter, merge
from ..model.weights import CheckpointError, FoundWeights, read_checkpoint
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


@dataclass(frozen=True)
class Weights:
    """Weights, and what is known about them.

    Attributes:
        path: The file, or the folder of Hugging Face's.
        model: The model that they are of.
        config: The settings that they were trained with; None: unknown.
        run_dir: The run that they are of; None: unknown.
        base: What `path` holds adapters for; None: what lies beside it.
        hub: Their name on Hugging Face's hub; None: they are not from there.
    """

    path: Path
    model: ModelConfig
    config: Optional[Config] = None
    run_dir: Optional[Path] = None
    base: Optional[str] = None
    hub: Optional[str] = None

    def __str__(self) -> str:
        return self.hub or str(self.path)

    def read(self, name: str = "weights") -> FoundWeights:
        """Return the tensors; adapters from a file of their own stand beside those of their base.

        Args:
            name: The setting that named the weights, for messages.

        Raises:
            CheckpointError: They, or the base of adapters, cannot be used.
        """
        adapters = read_adapters(self.path)
        if adapters is None:
            return read_weights(self.path, name)
        return put_on_base(adapters, self.base)

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
            return find_base(adapters)
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
        return self.path.parent / f"{self.path.stem}_{what}"


def chosen_of_model(overrides: Sequence[str]) -> set[str]:
    """Return the fields of the model section that the command line names."""
    keys = override_keys(overrides)
    names = {item.name for item in fields(ModelConfig)}
    chosen = {key.removeprefix("model.") for key in keys if key.startswith("model.")} & names
    return chosen | ({"architecture"} if "model" in keys else set())


def find(
    named: str,
    given: ModelConfig,
    chosen: Collection[str] = (),
    name: str = "weights",
    base: Optional[str] = None,
) -> Weights:
    """Find weights and the settings that belong to them.

    Args:
        named: A run's folder (its best weights), a ``.ckpt``, an exported or released ``.pt``, a
            folder or file of Hugging Face's, ``hf:OWNER/NAME[@REVISION]``, or a file of adapters.
        given: The model section of the command line.
        chosen: Fields of `given` that the user chose: they go before what is found out.
        name: The setting that named them, for messages.
        base: What adapters in a file of their own belong to; None: what their run started from, or
            what lies beside them.

    Raises:
        CheckpointError: There are none, or they are of no SAM 2.
    """
    hub, path = named if named.startswith(HUB) else None, local_path(named, name)
    run_dir = path if path.is_dir() and not holds_weights(path) else None
    if run_dir is not None:
        path = _best_of(run_dir, f"{name}={named}")
    elif path.parent.name in ("weights", "checkpoints"):
        run_dir = path.parent.parent
    adapters = read_adapters(path)
    config = _config_of_run(run_dir)
    if config is None and adapters is None and not is_hugging_face(path):
        config = _config_in(path, name)
    if adapters is not None:
        model = adapters.model
        base = base or _base_of_run(config)
    elif config is not None:
        model = config.model
    else:
        model = model_config_from(path, given.architecture, name)
    model = replace(model, **{field: getattr(given, field) for field in chosen})
    if config is None:
        run_dir = None
    return Weights(path, model, config, run_dir, base, hub)


def _base_of_run(config: Optional[Config]) -> Optional[str]:
    """Return what a run with adapters started from, where it still lies there."""
    base = None if config is None else config.model.checkpoint_path
    return base if base is not None and (base.startswith(HUB) or Path(base).exists()) else None


def _best_of(run_dir: Path, setting: str) -> Path:
    weights, checkpoints = run_dir / "weights", run_dir / "checkpoints"
    candidates = [weights / "best.pt", weights / "last.pt"]
    candidates += [*sorted(checkpoints.glob("best*.ckpt")), checkpoints / "last.ckpt"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{setting} has no weights: expected the folder of a run, with weights/best.pt or a"
            " checkpoint in checkpoints/"
        )
    return found


def _config_of_run(run_dir: Optional[Path]) -> Optional[Config]:
    if run_dir is None or not (run_dir / "config.yaml").is_file():
        return None
    path = run_dir / "config.yaml"
    try:
        stored = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        assert isinstance(stored, dict)
        return config_of({str(key): value for key, value in stored.items()})
    except (UserError, AssertionError, OSError, ValueError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def _config_in(path: Path, name: str) -> Optional[Config]:
    """Return the settings that a checkpoint of this program stores, None for other files."""
    content: Any = read_checkpoint(path, name)
    if not isinstance(content, dict):
        return None
    parameters = content.get("hyper_parameters")
    stored = parameters.get("config") if isinstance(parameters, dict) else None
    return config_of(stored) if isinstance(stored, dict) else None


def build_predictor(
    weights: Weights, device: torch.device, postprocessing: bool = False, name: str = "weights"
) -> "SAM2VideoPredictor":
    """Return Meta's video predictor with these weights.

    Args:
        weights: What `find` returned.
        device: Where it computes.
        postprocessing: What Meta's ``build_sam2_video_predictor`` does by default: it chooses among
            masks and fills holes, which training does not do and `tiny` was never trained for.
        name: The setting that named the weights, for messages.

    Raises:
        CheckpointError: The weights do not fit the model.
        MissingSam2Error: The package ``sam2`` is not installed.
    """
    from hydra.utils import instantiate

    node = architecture_node(weights.model)
    node["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    for key, value in (_POSTPROCESSING if postprocessing else {}).items():
        OmegaConf.update(node, key, value, force_add=True)
    predictor = instantiate(node, _convert_="all")
    found = weights.read(name)
    # Exported weights have the adapters of their training merged already.
    if weights.model.lora.rank is not None and any(map(is_adapter, found.weights)):
        inject(predictor, weights.model.lora)
    load_found(predictor, found, str(weights), name)
    merge(predictor)
    return predictor.to(device).eval()
