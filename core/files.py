"""Files that are written whole or not at all, and what files and folders are called."""

import contextlib
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Union


def name_of(path: Path) -> str:
    """Return the name of a folder, or of a file without its suffix: a folder's dots are its own."""
    return path.name if path.is_dir() else path.stem


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give another path to write to; what was written there takes the place of `path` at the end.

    At any time there is the old file or the new one, also where several processes write it at
    once. After an error the old one stays. A process that is killed leaves a ``.part`` file.

    Args:
        path: Where the file is to be; its folder must be there.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def replace_whole(path: Path, content: Union[bytes, Iterable[bytes]]) -> int:
    """Write bytes, or parts of them as they come, as a `whole_file`; return their number."""
    with whole_file(path) as partial, partial.open("wb") as file:
        return sum(map(file.write, [content] if isinstance(content, bytes) else content))
