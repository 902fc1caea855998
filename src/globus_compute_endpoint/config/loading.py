# SPDX-License-Identifier: Apache-2.0
"""Reading YAML so that a mistake is reported with its file, key and line."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = [
    "Document",
    "KeyPath",
    "WrongOption",
    "did_you_mean",
    "load_file",
    "load_yaml",
    "validate",
]

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]

_SHOWN_PROBLEMS = 5
_CORRECT = "correct the named options"


class Document(dict[str, Any]):
    """A YAML mapping which knows on which line each of its keys stands."""

    lines: Mapping[KeyPath, int]

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line (from 1) of the key at ``path``, or of its nearest ancestor."""
        for length in range(len(path), 0, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return None


class WrongOption(Problem):
    """An option which no model of ours, but what it was meant for has refused.

    ``path`` leads to it from the top of its document.
    """

    def __init__(self, path: KeyPath, what: str) -> None:
        self._path, self._what = path, what
        super().__init__("OPTION", f"{_dotted(path)}: {what}", _CORRECT, ExitStatus.CONFIGURATION)

    def located(self, document: Mapping[str, Any], source: str) -> Problem:
        """Return the problem as :func:`validate` would have told it, with file and line."""
        text = f"{source}: {_dotted(self._path)}{_line(document, self._path)}: {self._what}"
        return Problem("CONFIG_INVALID", text, _CORRECT, ExitStatus.CONFIGURATION)


class _Loader(yaml.SafeLoader):
    """SafeLoader, but a key given twice is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen and key_node.tag != _MERGE_TAG:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


_MERGE_TAG = "tag:yaml.org,2002:merge"


def load_file(path: Path) -> Document:
    """Read a YAML mapping from a file.

    Raises:
        Problem: the file cannot be read, or as :func:`load_yaml`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(
            "CONFIG_UNREADABLE",
            f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}",
            "check the path and the permissions of the file",
            ExitStatus.CONFIGURATION,
        ) from error
    return load_yaml(text, str(path))


def load_yaml(text: str, source: str) -> Document:
    """Parse one YAML mapping; ``source`` is what messages call it.

    Raises:
        Problem: not YAML, a key given twice, or not a mapping (CONFIGURATION).
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        value = loader.construct_document(node) if node is not None else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Problem(
            "CONFIG_SYNTAX",
            f"{source}{_where(error)}: {_what(error)}",
            "the file must be YAML",
            ExitStatus.CONFIGURATION,
        ) from error
    finally:
        loader.dispose()
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Problem(
            "CONFIG_SYNTAX",
            f"{source}: the top level must be a mapping of option names to values",
            "write lines like `display_name: My endpoint`",
            ExitStatus.CONFIGURATION,
        )
    document = Document(value)
    document.lines = dict(_lines(node, ())) if node is not None else {}
    return document


def validate(model: type[Model], mapping: Mapping[str, Any], source: str) -> Model:
    """Check a mapping against a model.

    Raises:
        Problem: which options are wrong, each with its path and line (CONFIGURATION).
    """
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    lines = [_describe(item, model, mapping) for item in details[:_SHOWN_PROBLEMS]]
    if len(details) > _SHOWN_PROBLEMS:
        lines.append(f"and {len(details) - _SHOWN_PROBLEMS} more")
    raise Problem(
        "CONFIG_INVALID",
        f"{source}: " + "; ".join(lines),
        _CORRECT,
        ExitStatus.CONFIGURATION,
    )


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" where one of the known names is close, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _describe(item: ErrorDetails, model: type[BaseModel], mapping: Mapping[str, Any]) -> str:
    path, owner = _as_written(item["loc"], model)
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        text = "no such option" + did_you_mean(path[-1], owner.model_fields if owner else ())
    elif item["type"] == "union_tag_invalid":
        context = item["ctx"]
        path = (*path, context["discriminator"].strip("'"))
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        guess = did_you_mean(context["tag"], known)
        text = f"there is no {context['tag']}{guess}; known are {', '.join(known)}"
    return f"{_dotted(path)}{_line(mapping, path)}: {text}"


def _as_written(loc: KeyPath, model: type[BaseModel]) -> tuple[KeyPath, type[BaseModel] | None]:
    """Return a path without the tags of unions, and the model which its last key belongs to."""
    path: KeyPath = ()
    owner: type[BaseModel] | None = None
    inner: Any = model
    parts = iter(loc)
    for part in parts:
        path = (*path, part)
        owner = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
        field = owner.model_fields.get(str(part)) if owner else None
        inner = field.annotation if field else None
        if field and isinstance(field.discriminator, str) and len(path) < len(loc):
            tag, by = next(parts), field.discriminator
            members = get_args(field.annotation)
            inner = next(m for m in members if tag in get_args(m.model_fields[by].annotation))
    return path, owner


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path) or "the whole"


def _line(mapping: Mapping[str, Any], path: KeyPath) -> str:
    line = mapping.line_of(path) if isinstance(mapping, Document) else None
    return f" (line {line})" if line else ""


def _lines(node: yaml.Node, path: KeyPath) -> Iterable[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*path, index)
            yield inner, value.start_mark.line + 1
            yield from _lines(value, inner)


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _what(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
