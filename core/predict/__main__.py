"""``python -m core.predict weights=RUN source=MOVIE prompts=FILE``: objects in your own video."""

import sys
from pathlib import Path
from typing import Optional

from ..checks import UserError, required
from ..config import register_schema, to_config
from ..files import name_of
from ..official import MissingSam2Error, import_sam2
from ..overrides import compose_command_line, print_anything
from .settings import CONFIG_NAME, DRAW, SCHEMA, PredictConfig

_EXAMPLES = """
python -m core.predict weights=RUN source=cat.mp4 prompts=draw    # writes a JSON to fill in
python -m core.predict weights=RUN source=cat.mp4 prompts=prompts.json
"""


def main(arguments: Optional[list[str]] = None) -> int:
    """Track as the command line says.

    Args:
        arguments: Hydra overrides; None: the command line's.

    Returns:
        The exit status: mistakes end in one sentence and 1.
    """
    register_schema(SCHEMA, PredictConfig)
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{_EXAMPLES}")
        return 0
    try:
        cfg, overrides = compose_command_line(arguments, CONFIG_NAME, PredictConfig)
        config = to_config(cfg)
        assert isinstance(config, PredictConfig)
        import_sam2()
        print(_run(config, overrides))
    except (UserError, MissingSam2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(config: PredictConfig, overrides: list[str]) -> str:
    from ..out_of_memory import memory_for_tracking
    from ..tracking.weights import chosen_of_model, find
    from .draw import write_template
    from .program import predict, report
    from .prompt_files import EXAMPLE, read_prompts
    from .source import choose_frames, open_source

    source = required(config.source, "source", "PATH, a movie or a folder of images")
    prompts = required(
        config.prompts,
        "prompts",
        f"PATH, draw, a PNG, a folder of PNGs or a JSON such as {EXAMPLE}",
    )
    named = required(config.weights, "weights", "PATH, a run's folder, a .ckpt or a .pt")
    weights = find(named, config.model, chosen_of_model(overrides), base=config.base)
    config.model = weights.model
    opened = open_source(source, config.data.max_image_pixels)
    frames = choose_frames(opened, config.frames)
    name = name_of(Path(source).resolve())
    out = Path(config.out) if config.out else weights.default_out("predictions") / name
    if prompts == DRAW:
        picture, template = write_template(frames, out)
        return (
            f"{picture} shows the first frame with a grid of pixels\n"
            f"{template} holds prompts as examples: fill them in, then start again with"
            f" prompts={template}"
        )
    with memory_for_tracking(config):
        return report(predict(config, weights, frames, read_prompts(prompts, frames), out))


if __name__ == "__main__":
    print_anything()
    sys.exit(main())
