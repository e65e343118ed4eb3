"""``python -m core.data DATA_ARGS``: look through a data set before training on it."""

import sys

from ..official import MissingSam2Error, import_sam2

if __name__ == "__main__":
    try:
        import_sam2()
    except MissingSam2Error as error:
        sys.exit(f"error: {error}")
    from .check import main

    main()
