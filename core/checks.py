"""Refusing values of settings: the name of the field, what is allowed, what was found."""

import difflib
from typing import Any


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ValueError unless `ok`, naming the field, the value and what is allowed."""
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`, naming the nearest one."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")
