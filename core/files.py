"""Files that are written whole or not at all, the JSON in them, and what they are called."""

import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Union


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


def as_json(value: Any) -> str:
    """Return JSON, in one line, that may also stand in a ``<script>`` element of a page.

    No ``<`` in it begins a tag or a comment, and it can be written as UTF-8 whatever names of
    files it holds.

    Raises:
        ValueError: It holds NaN or infinite numbers.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Names of files may hold halves of characters, which UTF-8 has not; JSON can escape them.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    # Masks are full of <, which costs least where it stands for itself.
    return re.sub(r"<(?=[/!sS])", r"\\u003c", text)
