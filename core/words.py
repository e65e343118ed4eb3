"""Words that the whole program puts together alike."""

from typing import Optional


def counted(count: int, one: str, many: Optional[str] = None) -> str:
    """Return a number with what it counts: ``1 object``, ``2 objects``.

    Args:
        count: How many there are.
        one: The words for one.
        many: The words for other numbers; None: with an s at the end.
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"
