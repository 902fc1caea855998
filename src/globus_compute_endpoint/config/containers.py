# SPDX-License-Identifier: Apache-2.0
"""The options which have the workers of a block run in a container."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from globus_compute_endpoint.config.loading import did_you_mean

__all__ = ["LAUNCH_COMMAND", "RUN_DIRECTORY", "ContainerOptions", "ContainerType"]

ContainerType = Literal["apptainer", "docker", "singularity", "podman", "podman-hpc", "custom"]
#: What a command of one's own stands for the workers' command and the engine's run directory with.
LAUNCH_COMMAND = "{EXECUTOR_LAUNCH_CMD}"
RUN_DIRECTORY = "{EXECUTOR_RUNDIR}"
_DETACH = ("docker", "podman", "podman-hpc")
_DETACHES = re.compile(r"-[it]*d[it]*|--detach(=true)?")  # its client ends, and so the block


def _known(kind: Any) -> Any:
    if kind in (None, "None"):  # the word is no null in YAML
        return None
    known = get_args(ContainerType)
    if kind not in known:
        guess = did_you_mean(kind, known)
        raise ValueError(f"there is no {kind!r}{guess}; known are {', '.join(known)}, None")
    return kind


class ContainerOptions(BaseModel):
    """``container_type`` and what belongs to it."""

    model_config = ConfigDict(frozen=True)

    container_type: Annotated[ContainerType | None, BeforeValidator(_known)] = None
    container_uri: Annotated[str | None, Field(validate_default=True)] = None
    container_cmd_options: Annotated[str | None, Field(validate_default=True)] = None

    @field_validator("container_uri")
    @classmethod
    def _uri_fits(cls, uri: str | None, info: ValidationInfo) -> str | None:
        if "container_type" not in info.data:  # told already
            return uri
        kind = info.data["container_type"]
        if kind is None and uri:
            raise ValueError("has no meaning without container_type")
        if kind == "custom" and uri:
            raise ValueError("has no meaning here: the image belongs into container_cmd_options")
        if kind not in (None, "custom") and not uri:
            raise ValueError(f"container_type {kind} needs it: the image, or a file with one")
        if uri and uri.startswith("-"):
            raise ValueError("would be taken for an option")
        return uri or None

    @field_validator("container_cmd_options")
    @classmethod
    def _options_fit(cls, options: str | None, info: ValidationInfo) -> str | None:
        if "container_type" not in info.data:
            return options
        kind = info.data["container_type"]
        if kind is None:
            if options:
                raise ValueError("has no meaning without container_type")
        elif kind == "custom":
            if LAUNCH_COMMAND not in (options or ""):
                raise ValueError(
                    "container_type custom needs it: the command which starts the container,"
                    f" with {LAUNCH_COMMAND} for that of the workers"
                )
        elif options:
            options = _one_line(options)
            if kind in _DETACH and any(map(_DETACHES.fullmatch, shlex.split(options))):
                raise ValueError("a container which is detached would not last: leave --detach out")
        return options or None


def _one_line(options: str) -> str:
    """Return the words of ``options`` as they stand, on one line.

    Raises:
        ValueError: a shell would not take them for words of one command.
    """
    try:
        shlex.split(options)
    except ValueError as error:  # an open quotation, or a backslash at the end
        raise ValueError(f"these are no words of a command line: {error}") from error
    made = ""
    quote = ""
    escaped = False
    for at, character in enumerate(options):
        written = character
        if escaped:
            escaped = False
        elif quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            escaped = True
        elif character == "`" or options.startswith("$(", at):
            raise ValueError("commands are not run in it: quote ` and $( with single quotes")
        elif not quote and options.startswith(("$'", '$"'), at):
            raise ValueError("$'…' and $\"…\" are not understood here: leave the $ out")
        elif character == quote:
            quote = ""
        elif not quote:
            if character in "'\"":
                quote = character
            elif character in ";|&<>()" or (character == "#" and made[-1:].strip() == ""):
                raise ValueError(f"{character!r} would end the command: quote it")
            elif character in "\r\n":
                written = " "
        made += written
    return made.strip()
