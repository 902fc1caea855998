# SPDX-License-Identifier: Apache-2.0
"""Rendering the template of user endpoints with what a researcher has asked for.

All of this runs as the mapped user. Still, a variable must never say more than one value: each
is quoted as JSON, which is YAML too, before the template sees it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import jsonschema
import referencing
import referencing.exceptions
from jinja2.sandbox import ImmutableSandboxedEnvironment

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["RESERVED", "check_templates", "render_user_config"]

RESERVED = frozenset({"_GC", "parent_config", "user_runtime", "mapped_identity"})

_OPTIONS = "user_endpoint_config"  # what researchers know these variables as
_SHOWN_PROBLEMS = 5
_RENDERED_LIMIT = 1 << 20
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_PLAIN = re.compile(r"[A-Za-z0-9_./@+-]+")


class _Quoted(str):
    """A string as JSON, with its double quotes; ``raw`` is without."""

    __slots__ = ("raw",)
    raw: str

    def __new__(cls, raw: str) -> _Quoted:
        made = super().__new__(cls, _json(raw))
        made.raw = raw
        return made


class _QuotedMapping(Mapping[str, Any]):
    """A mapping looked up by plain keys, but whose keys come out quoted, as its values do."""

    def __init__(self, raw: Mapping[str, Any], quote: Callable[[str], str]) -> None:
        self._raw = raw
        self._quote = quote

    def __getitem__(self, key: str) -> Any:
        return _quoted(self._raw[key.raw if isinstance(key, _Quoted) else key], self._quote)

    def __iter__(self) -> Iterator[str]:
        return (self._quote(key) for key in self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def items(self) -> Any:
        return [(self._quote(key), self[key]) for key in self._raw]

    def values(self) -> Any:
        return [self[key] for key in self._raw]

    def __str__(self) -> str:
        return _json(self._raw)


class _QuotedList(list[Any]):
    """A list which comes out as JSON."""

    def __init__(self, raw: list[Any], quote: Callable[[str], str]) -> None:
        super().__init__(_quoted(each, quote) for each in raw)
        self._raw = raw

    def __str__(self) -> str:
        return _json(self._raw)


def render_user_config(
    template: str,
    schema: Mapping[str, Any] | bool | None,
    user_opts: Mapping[str, Any],
    user_runtime: Mapping[str, Any],
    mapped_identity: Mapping[str, Any],
    *,
    parent_config: Mapping[str, Any] | None = None,
    included: Mapping[str, str] | None = None,
) -> str:
    """Return the YAML text of a user endpoint's configuration.

    ``included`` are the only templates, by name, which this one may include, import or extend.

    Raises:
        Problem: the variables do not fit schema or template, or these are broken
            (CONFIGURATION). The message is for the researcher.
    """
    if clash := sorted(RESERVED & user_opts.keys()):
        raise _wrong_options(f"the name {clash[0]!r} is reserved", "choose another name for it")
    if schema is not None:
        _check(schema, user_opts)
    variables = {key: _quoted(value, _Quoted) for key, value in user_opts.items()}
    reserved = {
        "mapped_identity": _QuotedMapping(mapped_identity, _quoted_unless_plain),
        "parent_config": _QuotedMapping(parent_config or {}, _quoted_unless_plain),
        "user_runtime": _QuotedMapping(user_runtime, _Quoted),
    }
    return _render(template, {**variables, **reserved, "_GC": reserved}, included or {})


def check_templates(templates: Mapping[str, str]) -> None:
    """Check, without rendering them, that templates can be rendered; they are given by name.

    Raises:
        Problem: one is not Jinja, or names a filter which there is not (CONFIGURATION).
    """
    environment = _environment({})
    for name, text in templates.items():
        try:
            environment.compile(text, name, raw=True)
        except jinja2.TemplateSyntaxError as error:
            raise Problem(
                "TEMPLATE_INVALID",
                f"{name}, line {error.lineno}: {error.message}",
                "correct the template; see Jinja's template designer documentation",
                ExitStatus.CONFIGURATION,
            ) from error


def _environment(included: Mapping[str, str]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
        loader=jinja2.DictLoader(included),
    )
    environment.filters["shell_escape"] = _shell_escape
    return environment


def _render(template: str, variables: Mapping[str, Any], included: Mapping[str, str]) -> str:
    try:
        rendered = _environment(included).from_string(template).render(variables)
    except jinja2.UndefinedError as error:
        raise _wrong_options(
            f"the endpoint's template needs a value which is missing: {error.message}",
            f"add it to {_OPTIONS}",
        ) from error
    except jinja2.TemplateSyntaxError as error:
        file = f"{error.name}, " if error.name else ""
        raise _broken(f"{file}line {error.lineno}: {error.message}") from error
    except jinja2.TemplateNotFound as error:
        there = ", ".join(sorted(included)) or "none"
        raise _broken(f"there is no {error} among the templates beside it ({there})") from error
    except Exception as error:
        raise _broken(f"{type(error).__name__}: {error}") from error
    if len(rendered) > _RENDERED_LIMIT:
        raise _wrong_options("the rendered configuration is over 1 MiB", "pass shorter values")
    return rendered


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """Check a pattern as JSON Schema means it: ``$`` is not also before a last line break."""
    matching = jsonschema.Draft202012Validator.VALIDATORS["pattern"]
    yield from matching(validator, pattern, instance, schema)
    if isinstance(instance, str) and instance.endswith("\n"):
        yield from matching(validator, pattern, f"{instance}\n", schema)


_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # jsonschema leaves it untyped
    jsonschema.Draft202012Validator, {"pattern": _pattern}
)


def _check(schema: Mapping[str, Any] | bool, user_opts: Mapping[str, Any]) -> None:
    # With a registry of our own nothing is fetched from the network.
    validator = _Validator(schema, registry=referencing.Registry())
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        errors = sorted(validator.iter_errors(dict(user_opts)), key=lambda each: each.json_path)
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable) as error:
        text = getattr(error, "message", None) or str(error)
        raise Problem(
            "SCHEMA_BROKEN",
            f"the endpoint's user_config_schema.json is broken: {text}",
            "tell the administrator of the endpoint",
            ExitStatus.CONFIGURATION,
        ) from error
    if not errors:
        return
    told = [f"{each.json_path.replace('$', _OPTIONS, 1)}: {each.message:.300}" for each in errors]
    if len(told) > _SHOWN_PROBLEMS:
        told[_SHOWN_PROBLEMS:] = [f"and {len(told) - _SHOWN_PROBLEMS} more"]
    raise _wrong_options("; ".join(told), f"change what is named in {_OPTIONS}")


def _quoted(value: Any, quote: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, Mapping):
        return _QuotedMapping(value, quote)
    if isinstance(value, list | tuple):
        return _QuotedList(list(value), quote)
    return value


def _quoted_unless_plain(text: str) -> str:
    """Quote what the system says of a user only where it must be (gecos is the user's own)."""
    return text if _PLAIN.fullmatch(text) else _Quoted(text)


def _json(value: Any) -> str:
    """Return JSON which YAML reads alike: YAML has no surrogate pairs, and folds some spaces."""
    return _UNPRINTABLE.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _finalize(value: Any) -> Any:
    """Write null, true and false as YAML does."""
    return _json(value) if value is None or isinstance(value, bool) else value


def _shell_escape(value: Any) -> str:
    """Quote a value as one word of a shell command, without its JSON quotes."""
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises, unless the template gave a default
    text = value.raw if isinstance(value, _Quoted) else str(value)
    if any(not character.isprintable() for character in text):
        # Such as a line break, which would end the YAML value that the command stands in.
        raise ValueError(f"{text!r:.100} has a line break or a control character")
    return shlex.quote(text)


def _wrong_options(message: str, hint: str) -> Problem:
    return Problem("USER_OPTIONS_INVALID", message, hint, ExitStatus.CONFIGURATION)


def _broken(text: str) -> Problem:
    return Problem(
        "TEMPLATE_FAILED",
        f"the endpoint's template cannot be rendered with these values: {text}",
        f"check the values in {_OPTIONS}; else tell the administrator of the endpoint",
        ExitStatus.CONFIGURATION,
    )
