"""What ``python -m core.evaluate`` takes, and how it goes together with the settings of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, List, Optional  # noqa: UP035 (OmegaConf reads List)

from omegaconf import DictConfig, OmegaConf

from ..checks import A_PATH, TRUE_OR_FALSE, Rule, UserError, at_least, one_of, or_null, setting
from ..config import Config, DataConfig, sources_of
from ..overrides import override_keys
from ..tracking.settings import TrackingConfig

CONFIG_NAME = "evaluate"
SCHEMA = "evaluate_schema"
PROTOCOLS = ("davis", "sav", "lvos")

_FILMS = Rule(
    "auto, none or a number of videos",
    lambda value: value in ("auto", "none") or (type(value) is int and value >= 0),
)


@dataclass
class EvaluateConfig(TrackingConfig):
    """The settings of a training, of which model, data and devices matter, and what is its own."""

    split: str = setting("val", one_of("val", "train", "all"), "which videos")
    source: Optional[str] = setting(
        None,
        or_null(Rule("the name of a data set", bool)),
        "which of the run's data sets, where `data.sources` has several",
    )
    videos: Optional[List[str]] = setting(  # noqa: UP006
        None, Rule("null or a list of names", lambda value: value != []), "only these videos"
    )
    protocol: Optional[str] = setting(
        None,
        or_null(one_of(*PROTOCOLS, "all")),
        "`davis`, `sav`, `lvos` or `all`; null: `sav` for `data=sav`, otherwise `davis`",
    )
    prompt: Optional[str] = setting(
        None,
        or_null(one_of("mask", "bbox", "point")),
        "what each object is prompted with where it first appears; null: as trained",
    )
    postprocessing: bool = setting(
        False, TRUE_OR_FALSE, "Meta's post-processing, which training does not do"
    )
    out: Optional[str] = setting(
        None, A_PATH, "folder of the results; null: `evaluation` below the run"
    )
    overwrite: bool = setting(
        False, TRUE_OR_FALSE, "delete the results that lie in `out`, whatever their settings"
    )
    films: Any = setting("auto", _FILMS, "films of so many of the worst videos; `auto`: 4; `none`")
    compare: Optional[str] = setting(
        None,
        A_PATH,
        "other weights to evaluate and compare with; `released`: those that training started from",
    )
    max_frames: Optional[int] = setting(
        None, or_null(at_least(2)), "only so many frames of each video, from its first"
    )


def combine(
    cfg: DictConfig, config: EvaluateConfig, overrides: Sequence[str], run: Optional[Config]
) -> EvaluateConfig:
    """Return the settings with those of the weights' run where the command line names no others.

    ``data=...`` chooses another data set: then nothing of the run's data settings is left.

    Args:
        cfg: What Hydra composed.
        config: The same as dataclasses; changed and returned.
        overrides: The command line.
        run: The settings of the weights' run, None where they are unknown.

    Raises:
        UserError: The result makes no sense.
    """
    keys = override_keys(overrides)
    if run is not None and "seed" not in keys:
        config.seed = run.seed
    if run is None or keys & {"data", "experiment", "data.sources"}:
        _choose_source(config)
        return config
    config.data = run.data
    _choose_source(config)
    stored = OmegaConf.structured(config.data)
    for key in keys:
        if key.startswith("data."):
            OmegaConf.update(stored, key.removeprefix("data."), OmegaConf.select(cfg, key))
    data = OmegaConf.to_object(stored)
    assert isinstance(data, DataConfig)
    config.data = data
    return config


def _choose_source(config: EvaluateConfig) -> None:
    """Leave one data set, of several the one that ``source`` names."""
    names = [str(source.name) for source in sources_of(config.data)]
    if config.source in names:
        # importing it earlier would import what needs sam2
        from ..data.datapoint import seed_of_source

        position = names.index(config.source)
        config.data = sources_of(config.data)[position]
        config.seed = seed_of_source(config.seed, position)
    elif names:
        given = "no source is given" if config.source is None else f"source={config.source}"
        raise UserError(
            f"{given}, but data.sources has several data sets, which are evaluated one at a time:"
            f" expected source={' or source='.join(names)}"
        )
    elif config.source is not None:
        raise UserError(
            f"source={config.source}: data.sources has no data sets to choose from, expected"
            " source=null"
        )


def protocols_of(config: EvaluateConfig) -> list[str]:
    """Return the protocols to count by, the first of which gives ``objects.csv``."""
    default = "sav" if config.data.source == "sav" else "davis"
    if config.protocol == "all":
        return [default, *(name for name in PROTOCOLS if name != default)]
    return [config.protocol or default]


def prompt_of(config: EvaluateConfig, trained_with: str) -> str:
    """Return what objects are prompted with; `mixed` training is evaluated with masks."""
    return config.prompt or ("mask" if trained_with == "mixed" else trained_with)


def image_prompt_of(kind: str) -> str:
    """Return what objects of images are prompted with: a mask would leave nothing to find."""
    return "bbox" if kind == "bbox" else "point"
