# SPDX-License-Identifier: Apache-2.0
"""Parsl's objects from mappings in YAML; a wrong option is told with its place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from typeguard import TypeCheckError

from globus_compute_endpoint.config.loading import KeyPath, WrongOption, did_you_mean

__all__ = ["call", "check_known", "known", "typed"]

# typeguard's text, where an argument has the wrong type.
_ARGUMENT = re.compile(r'^(?:item \d+ of )?argument "(\w+)"')


def typed(options: Mapping[str, Any], module: ModuleType, path: KeyPath, suffix: str) -> Any:
    """Make the object which ``type`` names; only what the module offers can be named.

    Raises:
        WrongOption: there is no such type, or it does not take an option.
    """
    rest = dict(options)
    names = [name for name in dir(module) if name.endswith(suffix) and not name.startswith("_")]
    return call(getattr(module, known(rest.pop("type", None), names, path)), rest, path)


def known(kind: object, names: Sequence[str], path: KeyPath) -> str:
    """Return ``kind`` if it is one of ``names``.

    Raises:
        WrongOption: it is not; the ``type`` below ``path`` is what is wrong.
    """
    if isinstance(kind, str) and kind in names:
        return kind
    told = f"there is no {kind!r}{did_you_mean(kind, names)}" if kind else "it is missing"
    raise WrongOption((*path, "type"), f"{told}; known are {', '.join(names)}")


def check_known(function: Callable[..., Any], options: Mapping[str, Any], path: KeyPath) -> None:
    """Check the names of options.

    Raises:
        WrongOption: the function has no such parameter.
    """
    parameters = inspect.signature(function).parameters
    for name in options:
        if name not in parameters:
            guess = did_you_mean(name, parameters)
            raise WrongOption((*path, name), f"no such option{guess}")


def call(function: Callable[..., Any], options: Mapping[str, Any], path: KeyPath) -> Any:
    """Call what makes one of Parsl's objects.

    Raises:
        WrongOption: it knows no such option, or does not take a value.
    """
    check_known(function, options, path)
    try:
        return function(**options)
    except (TypeError, ValueError, TypeCheckError, AssertionError, OSError) as error:
        text = str(error)
        if named := _ARGUMENT.match(text):
            path = (*path, named[1])
            text = _in_one_line(text, options.get(named[1]))
        raise WrongOption(path, f"Parsl does not take it: {text}") from error
    except Exception as error:  # each provider has exceptions of its own
        raise WrongOption(path, f"{type(error).__name__}: {error}") from error


def _in_one_line(text: str, value: object) -> str:
    """Return what typeguard tells of a value, which has a line for each type that it may have."""
    first, *kinds = text.splitlines()
    if not kinds:
        return first
    names = [each.strip().split(": ")[0].replace("NoneType", "null") for each in kinds]
    return f"must be {' or '.join(names)}, not {value!r}"
