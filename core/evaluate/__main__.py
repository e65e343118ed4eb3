"""``python -m core.evaluate weights=RUN``: weights on whole videos, scored as public tools do."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ..checks import UserError, required
from ..config import register_schema, to_config
from ..official import MissingSam2Error, import_sam2
from ..overrides import compose_command_line, print_anything
from .settings import CONFIG_NAME, SCHEMA, EvaluateConfig, combine

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ..tracking.weights import Weights
    from .program import Evaluation


def main(arguments: Optional[list[str]] = None) -> int:
    """Evaluate as the command line says.

    Args:
        arguments: Hydra overrides; None: the command line's.

    Returns:
        1 when nothing could be scored, otherwise 0. Mistakes end in one sentence and status 1.
    """
    register_schema(SCHEMA, EvaluateConfig)
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\nExample: python -m core.evaluate weights=outputs/DATE/TIME")
        return 0
    try:
        cfg, overrides = compose_command_line(arguments, CONFIG_NAME, EvaluateConfig)
        config = to_config(cfg)
        assert isinstance(config, EvaluateConfig)
        import_sam2()
        return _run(cfg, config, overrides)
    except (UserError, MissingSam2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(cfg: "DictConfig", config: EvaluateConfig, overrides: list[str]) -> int:
    from ..data.readers.recognise import resolve_source
    from ..out_of_memory import memory_for_tracking
    from ..tracking.weights import chosen_of_model, find
    from .program import report

    named = required(config.weights, "weights", "a run's folder, a .ckpt or a .pt")
    weights = find(named, config.model, chosen_of_model(overrides), base=config.base)
    config = combine(cfg, config, overrides, weights.config)
    config.data = resolve_source(config.data, print)
    config.model = weights.model
    other = None
    if config.compare is not None:
        # what training has gained is the difference to what it started from, at its own size
        chosen = ("image_size",) if config.compare == "released" else ()
        named = weights.released(config.compare)
        other = find(named, config.model, chosen, "compare", config.base)
    out = Path(config.out) if config.out else weights.default_out("evaluation")
    if config.source is not None and not config.out:
        out /= config.source
    with memory_for_tracking(config):
        result = _evaluate(config, weights, other, out)
    print(f"\n{report(result)}")
    counted = (found["objects"] for found in result.summary["protocols"].values())
    return 0 if any(counted) else 1


def _evaluate(
    config: EvaluateConfig, weights: "Weights", other: Optional["Weights"], out: Path
) -> "Evaluation":
    """Evaluate weights, and others to compare them with, and show what came of it."""
    from .program import evaluate, show

    result = evaluate(config, weights, out)
    compared = None
    if other is not None:
        kind = config.prompt or result.summary["prompt"]
        clicks = config.model.num_correction_points
        model = dataclasses.replace(other.model, num_correction_points=clicks)
        settings = dataclasses.replace(config, model=model, prompt=kind)
        compared = evaluate(settings, other, out / "compare")
    show(result, config, compared)
    return result


if __name__ == "__main__":
    print_anything()
    sys.exit(main())
