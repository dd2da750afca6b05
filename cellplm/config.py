"""Configuration: frozen dataclasses <-> TOML, with overrides like `train.lr=3e-4`.

Each part of the program owns its dataclass (`PlanConfig` beside the plan, `ModelConfig`
beside the model); this file only knows how to fill them. Unknown keys are errors that
name the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cellplm.errors import ConfigError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Fill a (possibly nested) dataclass from plain values.

    Args:
        cls: the dataclass.
        values: by field name; nested dataclasses take nested mappings.
        where: prefix for messages, such as "train.".

    Raises:
        ConfigError: an unknown key (the nearest known one is named) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(typing.cast(Any, cls))]
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}{key}: unknown key.{_nearest(key, known, where)}")
        filled[key] = _convert(hints[key], value, f"{where}{key}")
    return cls(**filled)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain values for TOML or JSON; None fields are left out."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        out[f.name] = value
    return out


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested mappings.

    Raises:
        ConfigError: not there, or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.") from None


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `key.sub=value` assignments; values are TOML, or plain text where that fails.

    Raises:
        ConfigError: an assignment without `=`.
    """
    out = _copy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment}: expected key=value, such as train.lr=3e-4.")
        try:
            value: Any = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        target = out
        *parents, last = path.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {assignment}: {parent} is a value, not a table.")
        target[last] = value
    return out


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second winning."""
    out = _copy(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else value
    return out


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _nearest(key: str, known: Sequence[str], where: str) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f" Did you mean {where}{close[0]}?"
    return f" Known: {', '.join(where + k for k in known)}."


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        inner = [o for o in options if o is not type(None)]
        return _convert(inner[0], value, where)
    if origin is typing.Literal:
        options = typing.get_args(hint)
        if value not in options:
            known = ", ".join(map(str, options))
            raise ConfigError(f"{where} = {value!r}: expected one of {known}.")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}: expected a table.")
        return build(hint, value, where=f"{where}.")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} = {value!r}: expected a list.")
        (item, *_) = typing.get_args(hint)
        return tuple(_convert(item, v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ConfigError(f"{where} = {value!r}: expected {hint.__name__}.")
    return value
