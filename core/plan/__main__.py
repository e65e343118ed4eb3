"""``python -m core.plan [the overrides of the training]``: what will it need, and what will fit?"""

import dataclasses
import sys
from typing import Optional

from rich.console import Console

from ..checks import UserError
from ..config import Config, register_schema, to_config
from ..official import MissingSam2Error, import_sam2
from ..overrides import compose_command_line, print_anything
from .fit import Size

_EXAMPLES = """
python -m core.plan model=sam2.1_hiera_tiny model.image_size=512 data.num_frames=8
"""


def main(arguments: Optional[list[str]] = None) -> int:
    """Plan the training that the command line describes.

    Args:
        arguments: Hydra overrides; None: the command line's.

    Returns:
        The exit status: mistakes end in one sentence and 1.
    """
    register_schema()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{_EXAMPLES}")
        return 0
    try:
        config = to_config(compose_command_line(arguments)[0])
        import_sam2()
        _run(config)
    except (UserError, MissingSam2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(config: Config) -> None:
    from ..data.readers.recognise import resolve_source
    from ..model.loading import with_architecture
    from .program import plan, remark_on, table_of

    if config.data.sources:
        raise UserError(
            "data.sources has several data sets: plan for the one with the most frames and objects,"
            " with its settings as data.*"
        )
    config = dataclasses.replace(
        config, model=with_architecture(config.model), data=resolve_source(config.data)
    )
    own = Size(config.data.num_frames, objects_of(config), config.model.image_size)
    console = Console()
    found = plan(config, own, lambda said: console.print(said, highlight=False))
    console.print(table_of(found))
    console.print(remark_on(found), highlight=False)


def objects_of(config: Config) -> int:
    """Return the most objects of a clip: those of the settings, or the categories of the data.

    Raises:
        UserError: The data cannot be trained on.
    """
    if config.data.source == "synthetic":
        return config.data.synthetic.max_objects
    from ..data import VideoDataModule
    from ..data.readers.reader import has_category_layout

    if not has_category_layout(config.data):
        return config.data.max_objects
    data = VideoDataModule(config.data, config.model.image_size, config.seed)
    data.setup("fit")
    return data.num_categories or config.data.max_objects


if __name__ == "__main__":
    print_anything()
    sys.exit(main())
