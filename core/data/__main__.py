"""``python -m core.data DATA_ARGS``: look through a data set before training on it."""

import sys

from ..config import CONFIG_DIR
from ..official import MissingSam2Error, import_sam2

if __name__ == "__main__":
    if not (CONFIG_DIR / "config.yaml").is_file():
        # an installed copy of the package, or one under another name, comes without them
        sys.exit(
            f"error: looking through a data set needs the project's configs/, not found at"
            f" {CONFIG_DIR}: run it in a checkout of the project"
        )
    try:
        import_sam2()
    except MissingSam2Error as error:
        sys.exit(f"error: {error}")
    from .check import main

    main()
