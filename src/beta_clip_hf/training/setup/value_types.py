"""Checks the values of a configuration against the annotations of what takes them."""

import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ...data.fields import shown
from ...data.spelling import did_you_mean


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    dict: "a mapping",
    Mapping: "a mapping",
}
# Longer lists of names are not shown whole.
_SHOWN_NAMES = 8


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """
    Checks that each value is of a type that its annotation allows.

    Args:
        values: The values by name.
        hints: The annotations by name. A name without one is not checked.
        where: The name of the section, for messages.

    Raises:
        ValueError: names the first value of another type, and what it must be.

    >>> check_types({"max_steps": 200, "save_steps": None}, {"max_steps": int, "save_steps": float | None}, "training")
    """
    for name, value in values.items():
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            wanted, names = _describe(hint), _names_of(hint)
            hint_of_name = did_you_mean(value, names) if isinstance(value, str) else ""
            raise ValueError(f"{where}.{name} must be {wanted}, but is {shown(value)}{hint_of_name}")


def _fits(value: Any, hint: Any) -> bool:
    parts = _parts(hint)
    if len(parts) > 1:
        return any(_fits(value, part) for part in parts)
    hint, origin, arguments = parts[0], get_origin(parts[0]), get_args(parts[0])
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        is_row = isinstance(value, list | tuple) and len(value) == len(arguments)
        return is_row and all(map(_fits, value, arguments))
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if hint is Any or not isinstance(hint, type):
        # An annotation of a form that is not known here, as the next release of transformers may have, allows all.
        return True
    if issubclass(hint, Enum):
        return isinstance(value, hint) or value in _names_of(hint)
    return _fits_class(value, hint)


def _fits_class(value: Any, hint: type) -> bool:
    # A bool is an int to Python, but not to those who write a number.
    if hint is int:
        return type(value) is int
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint is str:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, hint)


def _parts(hint: Any) -> tuple[Any, ...]:
    """
    Returns the members of a union; any other annotation is its only member.

    transformers annotates some arguments as an enumeration or any text. Only names of the enumeration mean something
    to it, so `str` is left out.
    """
    if get_origin(hint) not in (Union, UnionType):
        return (NoneType if hint is None else hint,)
    parts = get_args(hint)
    if any(_is_enum(part) for part in parts):
        parts = tuple(part for part in parts if part is not str)
    return parts


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _names_of(hint: Any) -> list[str]:
    """Returns the names that an enumeration has."""
    names: list[str] = []
    for part in _parts(hint):
        if _is_enum(part):
            names += [str(member.value) for member in part]
    return names


def _describe(hint: Any) -> str:
    names = _names_of(hint)
    if len(names) > _SHOWN_NAMES:
        return f"one of the {len(names)} names that transformers knows"
    if names:
        return f"one of {', '.join(names)}"
    words = []
    for part in _parts(hint):
        if part is NoneType:
            words.append("null")
        elif get_origin(part) is tuple:
            words.append(f"a list of {len(get_args(part))} numbers")
        elif get_origin(part) in (list, Sequence):
            words.append("a list")
        else:
            kind = get_origin(part) or part
            words.append(_WORDS.get(kind) or str(getattr(kind, "__name__", kind)))
    return " or ".join(words)


__all__ = ["check_types"]
