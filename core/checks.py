"""What a setting may be, and refusing what it may not: the setting, the value, what is allowed.

A rule stands with its field: ``panel_size: int = setting(256, between(64, 1024), "longest side")``.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Optional


def in_one_line(text: str) -> str:
    """Return a message with its line breaks as escapes: names of files may have some."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


class UserError(ValueError):
    """A setting, the data or a file cannot work; the message tells the user in one sentence why."""

    def __str__(self) -> str:
        """Return the message in one line."""
        return in_one_line(super().__str__())


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> Optional[str]:
    """Return the choice most like `word`, None when none is like it.

    Args:
        word: What was found.
        choices: What could have been meant.
        cutoff: How alike the two must be, from 0 to 1.
    """
    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)), None)


def require(ok: bool, name: str, value: Any, allowed: str, hint: str = "") -> None:
    """Raise UserError unless `ok`, naming the field, the value and what is allowed."""
    if not ok:
        raise UserError(f"{name} must be {allowed}, got {value!r}{hint}")


@dataclass(frozen=True)
class Rule:
    """Which values a setting may have.

    Attributes:
        allowed: Says it after "must be".
        accepts: Decides it.
        choices: Names, of which the nearest is suggested.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Raise UserError unless the rule accepts the value of the setting `name`."""
        if not self.accepts(value):
            near = nearest(str(value), self.choices)
            hint = f" (did you mean {near!r}?)" if near else ""
            require(False, name, value, self.allowed, hint)


ANY_VALUE = Rule("anything", lambda value: True)
A_PATH = Rule("a path", lambda value: value is None or isinstance(value, (str, os.PathLike)))
TRUE_OR_FALSE = Rule("true or false", lambda value: isinstance(value, bool))


def at_least(low: float) -> Rule:
    """Allow `low` and more."""
    return Rule(f"at least {low}", lambda value: value >= low)


def greater_than(low: float) -> Rule:
    """Allow more than `low`."""
    return Rule(f"greater than {low}", lambda value: value > low)


def between(low: float, high: float) -> Rule:
    """Allow `low`, `high` and what lies between them."""
    return Rule(f"between {low} and {high}", lambda value: low <= value <= high)


def within(interval: str) -> Rule:
    """Allow an interval as mathematics writes it: ``(0, 1]`` leaves out 0 and takes in 1."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    takes_low, takes_high = interval[0] == "[", interval[-1] == "]"
    return Rule(
        f"in {interval}",
        lambda value: (
            (low < value or (takes_low and value == low))
            and (value < high or (takes_high and value == high))
        ),
    )


def one_of(*choices: str) -> Rule:
    """Allow these names."""
    return Rule(
        f"one of {', '.join(choices)}",
        lambda value: isinstance(value, str) and value in choices,
        choices,
    )


def or_null(rule: Rule) -> Rule:
    """Allow None too."""
    return Rule(
        f"null or {rule.allowed}", lambda value: value is None or rule.accepts(value), rule.choices
    )


def whole(rule: Rule) -> Rule:
    """Allow whole numbers alone: for sections that people build without Hydra, which checks types.

    True and False count as no number.
    """
    return Rule(
        rule.allowed,
        lambda value: (
            isinstance(value, int) and not isinstance(value, bool) and rule.accepts(value)
        ),
    )


def number(rule: Rule) -> Rule:
    """Allow numbers alone; see `whole`."""
    return Rule(
        rule.allowed,
        lambda value: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and rule.accepts(value)
        ),
    )


def setting(default: Any, rule: Rule, description: str) -> Any:
    """Return a dataclass field that `Section` checks.

    Args:
        default: Its default; a list is copied for each section.
        rule: What it may be.
        description: What it is for, in one sentence.
    """
    metadata = {"rule": rule, "description": description}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def expand_home(path: str) -> str:
    """Return a path with the home folder for the ``~`` that it begins with."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path  # noqa: PTH111


@dataclass
class Section:
    """A section of the configuration, whose settings are checked when it is built."""

    prefix: ClassVar[str] = ""  # what messages put before a field's name

    def __post_init__(self) -> None:
        """Raise UserError for the first setting that its rule does not accept."""
        for item in dataclasses.fields(self):
            if "rule" not in item.metadata:
                continue
            name, value = f"{self.prefix}{item.name}", getattr(self, item.name)
            if isinstance(value, float):
                require(math.isfinite(value), name, value, "a finite number")
            item.metadata["rule"].check(name, value)
            if item.metadata["rule"] is A_PATH and isinstance(value, str):
                setattr(self, item.name, expand_home(value))


def required(value: Any, name: str, what: str) -> Any:
    """Return a setting that has to be given, or raise UserError."""
    if value is None:
        raise UserError(f"{name} is missing: expected {name}={what}")
    return value
