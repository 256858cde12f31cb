"""Reads a replica's configuration from its TOML file, one file a replica. Owns how tables become sections; what a
section may say is `controller.config_checks`'s.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from controller.config import ConfigError, ControllerConfig
from controller.config_checks import problems

T = TypeVar("T")


def load_config(path: Path) -> ControllerConfig:
    """Reads and checks a configuration file. Raises `ConfigError`."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    config = _build(ControllerConfig, document, str(path))
    for problem in problems(config):
        raise ConfigError(f"{path}: {problem}")
    return config


def _build(kind: type[T], table: Any, where: str) -> T:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: a table is expected")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(fields))}"
        )
    values = {
        name: _convert(hints[name], value, f"{where}: {name}") for name, value in table.items()
    }
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: setting {missing[0]!r} is required")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
        origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list is expected")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: {hint.__name__} is expected, not {type(value).__name__}")
    return value
