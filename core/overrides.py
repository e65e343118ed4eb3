"""The command line as people type it: paths and texts without quotes, mistakes in one sentence.

``train.py`` and the programs in ``core/`` pass their arguments through `prepare` before Hydra,
whose grammar would otherwise read ``=``, ``,``, brackets and spaces in the name of a file.
"""

import dataclasses
import io
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from .checks import A_PATH, Rule, Section, UserError, expand_home
from .config import (
    CONFIG_DIR,
    Config,
    SourceConfig,
    explain_typos,
    field_of_source,
    in_one_sentence,
    register_schema,
    to_config,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Hydra's own folders are paths of the user's as well.
_HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
# What Hydra's grammar lets a backslash protect outside of quotes.
_ESCAPED = re.compile(r"\\([()\[\]{}:=, \t\\])")
_SWEEP_FLAGS = ("-m", "--multirun")
# Of a setting that a sweep gives more values, the first ones are tried out.
_MAX_TRIED = 20
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
# Up to the next comma: quoted wholly, or anything with the comma protected by a backslash.
_BEFORE_COMMA = re.compile(rf"\s*({_QUOTED.pattern}|(?:\\.|[^,])*?)\s*,", re.DOTALL)
# Options of Hydra's with which it shows something else, or takes another configuration.
_OTHER_USE = (
    "help", "hydra_help", "shell_completion", "config_path", "config_name", "config_dir",
    "experimental_rerun", "info",
)  # fmt: skip


def print_anything() -> None:
    """Let the console take every character: one that it cannot show is written as its escape.

    SwanLab, for one, prints pictograms when a run starts, at which a console of GBK would fail.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def prepare(
    arguments: list[str], config_name: str = "config", schema: type[Config] = Config
) -> list[str]:
    """Return the arguments for Hydra: paths and texts quoted, and all of them tried out.

    A value that is ``null``, empty or in quotes already stays what it is, and ``${...}`` keeps its
    meaning; a path that begins with ``~`` begins with the home folder. With ``--multirun`` a comma
    outside of quotes separates values.

    Args:
        arguments: The command line without the program's name.
        config_name: The file in ``configs/`` that the program composes.
        schema: The program's settings, which were registered for that file.

    Raises:
        UserError: An argument is mistyped, or a setting has a value that makes no sense.
    """
    from hydra._internal.utils import get_args_parser

    # Hydra takes options before the settings alone.
    flags = [argument for argument in arguments if argument in _SWEEP_FLAGS]
    arguments = [*flags, *(argument for argument in arguments if argument not in _SWEEP_FLAGS)]
    try:
        options, unknown = get_args_parser().parse_known_args(arguments)
    except SystemExit:  # of --version, or for options that Hydra does not know
        return arguments
    if unknown or any(getattr(options, name) for name in _OTHER_USE):
        return arguments
    sweeps = options.multirun or "hydra.mode=MULTIRUN" in options.overrides
    named = {override: _name_source(override) for override in options.overrides}
    explain_typos(list(named.values()), schema)
    rules = {**_rules_of_texts(schema), **dict.fromkeys(_HYDRA_PATHS, A_PATH)}
    quoted = {given: _quote(override, sweeps, rules) for given, override in named.items()}
    _try_out(list(quoted.values()), sweeps, config_name)
    return [quoted.get(argument, argument) for argument in arguments]


def compose_command_line(
    arguments: list[str], config_name: str = "config", schema: type[Config] = Config
) -> tuple["DictConfig", list[str]]:
    """Return what Hydra composes of a command line, and the overrides as Hydra takes them.

    Args:
        arguments: See `prepare`.
        config_name: See `prepare`.
        schema: See `prepare`.

    Raises:
        UserError: See `prepare`.
    """
    from hydra import compose, initialize_config_dir

    overrides = prepare(arguments, config_name, schema)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(config_name, overrides), overrides


def override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the names of the settings that a command line gives a value."""
    return {override.partition("=")[0].lstrip("+~") for override in overrides}


def _name_source(override: str) -> str:
    """Return ``data.sources[1].root=...`` as Hydra takes it, for a source that has no such key yet.

    Hydra knows no brackets in names, and of lists not which keys their entries may have.
    """
    name, equals, value = override.partition("=")
    name = re.sub(r"^\+*data\.sources\[(\d+)\]", r"data.sources.\1", name)
    prefix = "++" if field_of_source(name) else ""
    return f"{prefix}{name}{equals}{value}"


def _rules_of_texts(section: type[Section], prefix: str = "") -> dict[str, Rule]:
    """Return the rules of the settings that are texts, by their names."""
    rules: dict[str, Rule] = {}
    for item in dataclasses.fields(section):
        if isinstance(item.type, type) and issubclass(item.type, Section):
            rules |= _rules_of_texts(item.type, f"{prefix}{item.name}.")
        elif item.type in (str, Optional[str]) and not item.metadata["rule"].choices:
            rules[prefix + item.name] = item.metadata["rule"]
    return rules


def _quote(override: str, sweeps: bool, rules: dict[str, Rule]) -> str:
    """Return an override with its value quoted where it is a path or a text."""
    key, equals, value = override.partition("=")
    key_of_source = field_of_source(key.lstrip("+"))
    if key_of_source is not None:
        rule = _rules_of_texts(SourceConfig).get(key_of_source)
    else:
        rule = rules.get(key.lstrip("+"))
    if not equals or rule is None or (sweeps and _SWEEP.fullmatch(value)):
        return override
    values = _split(value) if sweeps else [value]
    if rule is A_PATH and len(values) > 1 and Path(value).exists():
        raise UserError(
            f"{override}: with --multirun a comma separates values; a name that has one is put in "
            f"quotes: \"{key}='{value}'\""
        )
    return f"{key}={','.join(_quote_value(item, rule is A_PATH) for item in values)}"


def _split(value: str) -> list[str]:
    return [found[1] for found in _BEFORE_COMMA.finditer(f"{value},")]


def _quote_value(value: str, is_path: bool) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    if value == "" or value.lower() == "null" or _QUOTED.fullmatch(value):
        return value
    value = _ESCAPED.sub(r"\1", value)
    return QuotedString(expand_home(value) if is_path else value, Quote.single).with_quotes()


def _try_out(overrides: list[str], sweeps: bool, config_name: str) -> None:
    """Compose and check the configuration, of a sweep with each of its values; raise UserError."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    register_schema()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            for tried in _each_value(overrides) if sweeps else [overrides]:
                to_config(compose(config_name, tried))
    except UserError as error:
        # OmegaConf does not always tell where an interpolation stands.
        named = ", ".join(override for override in overrides if "${" in override)
        if not named or "nterpolation" not in str(error):
            raise
        raise UserError(f"{named}: {error}") from error
    # ValueErrors come at a folder of configs/ that is set to null
    except (HydraException, ValueError, AssertionError) as error:
        of_sources = [item.lstrip("+") for item in overrides if item.startswith("++data.sources.")]
        if of_sources and (isinstance(error, AssertionError) or "out of range" in str(error)):
            raise UserError(f"{of_sources[0]}: data.sources has no such entry") from error
        raise UserError(in_one_sentence(error)) from error


def _each_value(overrides: list[str]) -> Iterator[list[str]]:
    """Give the overrides of a sweep with each of its values, beside the first ones of the others.

    They are as many as there are values, while the number of jobs is a product.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
    values = [
        [
            f"{one.get_key_element()}={value}"
            for value in islice(one.sweep_string_iterator(), _MAX_TRIED)
        ]
        if one.is_sweep_override()
        else [given]
        for given, one in zip(overrides, parsed, strict=True)
    ]
    first = [value for value, *_ in values]
    yield first
    for i, (_, *others) in enumerate(values):
        for value in others:
            yield [*first[:i], value, *first[i + 1 :]]
