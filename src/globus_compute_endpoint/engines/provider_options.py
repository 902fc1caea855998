# SPDX-License-Identifier: Apache-2.0
"""What a provider's options may be, where Parsl would stumble only once a job is submitted."""

from __future__ import annotations

import inspect
import logging
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import parsl.launchers

from globus_compute_endpoint.config.loading import KeyPath, WrongOption

__all__ = [
    "check_launcher",
    "check_options",
    "check_packages",
    "check_sizes",
    "check_type",
    "warn_of_launcher",
]

log = logging.getLogger(__name__)

# What configurations of older Parsl versions have.
_REMOVED_TYPES = ("AdHocProvider", "CobaltProvider")
_REMOVED = dict.fromkeys(
    ("channel", "channels", "move_files", "label", "script_dir"),
    "was removed from Parsl; leave it out",
) | {
    "overrides": "was removed from Parsl; see scheduler_options",
    "tasks_per_node": "was removed from Parsl; see max_workers_per_node of the engine",
    "tasks_per_block": "was removed from Parsl; see max_workers_per_node of the engine",
}
# The modules of a provider that Parsl does not bring, and its extra which does.
_PACKAGES = {
    "AWSProvider": (("boto3",), "aws"),
    "AzureProvider": (("azure", "msrestazure"), "azure"),
    "GoogleCloudProvider": (("googleapiclient",), "google-cloud"),
    "KubernetesProvider": (("kubernetes",), "kubernetes"),
}
_DIRECTIVES = {
    "GridEngineProvider": "#$",
    "LSFProvider": "#BSUB",
    "PBSProProvider": "#PBS",
    "SlurmProvider": "#SBATCH",
    "TorqueProvider": "#PBS",
}
_OF_SEVERAL_LINES = ("worker_init", "scheduler_options")
_IN_SHELL = ("account", "clusters", "queue")
_IN_DIRECTIVES = ("constraint", "gres", "partition", "project", "qos", "select_options")
_TEXTS = (*_IN_SHELL, *_IN_DIRECTIVES, "image")
_IDS = ("user_id", "group_id")  # of a pod: text, of which Parsl makes numbers
_WORD = re.compile(r"[\w.@:+/,=%-]+", re.ASCII)
_HMS = (re.compile(r"\d+:\d{1,2}:\d{1,2}"), "HH:MM:SS")
# Parsl leaves the seconds out, and 0 is no limit at all to Slurm.
_FROM_A_MINUTE = (re.compile(r"(?!0+:0?0:)\d+:\d{1,2}:\d{1,2}"), "HH:MM:SS, from a minute")
_PBS = (re.compile(r"(\d+:){0,3}\d+"), "HH:MM:SS")
_WALLTIMES = {
    "AWSProvider": _HMS,
    "CondorProvider": _HMS,
    "GridEngineProvider": (re.compile(r"\d+:\d{1,2}:\d{1,2}|\d+"), "HH:MM:SS"),
    "LSFProvider": _FROM_A_MINUTE,
    "PBSProProvider": _PBS,
    "SlurmProvider": _FROM_A_MINUTE,  # Slurm reads more forms, but Parsl makes minutes of it
    "TorqueProvider": _PBS,
}
_NONE_IS_A_NUMBER = ("cores_per_block", "cores_per_node")
# Parsl checks the type, and not that it can be.
_LEAST = {
    "cores_per_slot": 1,
    "gpus_per_node": 0,
    "mem_per_node": 0,  # all that the node has
    "mem_per_slot": 0,
    "status_batch_size": 1,
}
# What starts the workers by means of one scheduler only.
_LAUNCHERS = {
    "SrunLauncher": ("SlurmProvider",),
    "SrunMPILauncher": ("SlurmProvider",),
    "JsrunLauncher": ("LSFProvider",),
}
_ONE_NODE = ("SimpleLauncher", "SingleNodeLauncher")


def check_type(kind: object, path: KeyPath) -> None:
    """Tell of a type which there was in older Parsl versions.

    Raises:
        WrongOption: it is one.
    """
    if kind in _REMOVED_TYPES:
        raise WrongOption((*path, "type"), f"{kind} was removed from Parsl")


def check_options(provider: type, options: Mapping[str, Any], path: KeyPath) -> None:
    """Check what is given for a provider, but not what Parsl itself checks.

    Raises:
        WrongOption: the type or form of a value, or an option which Parsl no longer has.
    """
    parameters = inspect.signature(provider).parameters
    for name, value in options.items():
        if name not in parameters:
            if name in _REMOVED:
                raise WrongOption((*path, name), _REMOVED[name])
            continue  # told with what may be meant, where it is made
        if name == "walltime":
            _check_walltime(provider.__name__, value, path)
        elif wrong := _wrong(name, value, parameters[name]):
            raise WrongOption((*path, name), wrong)
    _check_directives(provider.__name__, options.get("scheduler_options"), path)
    if set(_IDS) <= parameters.keys():
        _check_ids(options, path)


def _wrong(name: str, value: object, parameter: inspect.Parameter) -> str | None:
    """Return what is wrong with a value: the default tells the type, which few declare."""
    default = parameter.default
    if name == "regex_job_id":
        return _wrong_pattern(value)
    if name in _LEAST and isinstance(value, int | float):
        good = not isinstance(value, bool) and value >= _LEAST[name]
        return None if good else f"must be a number from {_LEAST[name]}"
    if name == "cmd_timeout":
        good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        return None if good else "must be a number of seconds, above 0"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "must be true or false"
    if (default is None and name in _NONE_IS_A_NUMBER) or name == "cpus_per_node":
        good = value is None or (type(value) is int and value > 0)
        return None if good else "must be an integer from 1"
    is_text = isinstance(default, str) or name in _TEXTS
    return (
        _wrong_text(name, value) if is_text and (value is not None or default is not None) else None
    )


def _wrong_pattern(value: object) -> str | None:
    try:
        good = isinstance(value, str) and "id" in re.compile(value).groupindex
    except re.error as error:
        return f"is no regular expression: {error}"
    return None if good else "must be a regular expression with a group (?P<id>…)"


def _wrong_text(name: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {value!r}"
    if name not in _OF_SEVERAL_LINES and "\n" in value.strip("\n"):
        return "must be a single line"
    if name in _IN_SHELL and not _WORD.fullmatch(value):
        return f"must be a name, not {value!r}"
    if name in _IN_DIRECTIVES and not _is_one_word(value):
        return f"must be one word, or quoted within its quotes, not {value!r}"
    return None


def _is_one_word(text: str) -> bool:
    """What follows a word in a scheduler's directive is another option, or taken for one."""
    try:
        return len(shlex.split(text)) <= 1 and text.isprintable()
    except ValueError:  # no closing quotation
        return False


def _check_walltime(kind: str, value: object, path: KeyPath) -> None:
    form, told = _WALLTIMES[kind]
    if isinstance(value, str) and form.fullmatch(value):
        return
    hint = "" if not isinstance(value, int) else "; YAML takes it for a number unless it is quoted"
    raise WrongOption((*path, "walltime"), f"must be {told}, not {value!r}{hint}")


def _check_directives(kind: str, options: object, path: KeyPath) -> None:
    directive = _DIRECTIVES.get(kind)
    if directive is None or not isinstance(options, str):
        return
    for line in map(str.strip, options.splitlines()):
        if line.startswith("-"):
            text = f"the line {line!r} would be run as a command: begin it with {directive!r}"
            raise WrongOption((*path, "scheduler_options"), text)


def _check_ids(options: Mapping[str, Any], path: KeyPath) -> None:
    given = {name: options[name] for name in _IDS if options.get(name) is not None}
    for name, value in given.items():
        if not (isinstance(value, str) and value.isdecimal()):
            raise WrongOption((*path, name), f"must be a number, quoted, not {value!r}")
    if len(given) == 1:
        raise WrongOption((*path, *given), f"Parsl heeds {' and '.join(_IDS)} only together")


def check_launcher(options: Mapping[str, Any], path: KeyPath) -> None:
    """Check the types of a launcher's options, which Parsl only declares.

    Raises:
        WrongOption: a value is of another; unknown names are told where it is made.
    """
    launcher = getattr(parsl.launchers, str(options.get("type")), None)
    parameters = {} if launcher is None else inspect.signature(launcher).parameters
    for name, value in options.items():
        kind = parameters[name].annotation if name in parameters else object
        if not isinstance(value, kind):
            told = "true or false" if kind is bool else "text"
            raise WrongOption((*path, name), f"must be {told}, not {value!r}")


def check_packages(kind: str, path: KeyPath) -> None:
    """Check that what Parsl imports for a provider can be.

    Raises:
        WrongOption: it cannot; with the command which installs it.
    """
    modules, extra = _PACKAGES.get(kind, ((), ""))
    missing = [name for name in modules if name not in sys.modules and find_spec(name) is None]
    if missing:
        raise WrongOption(
            (*path, "type"),
            f"{kind} needs Python packages which are not installed with this endpoint"
            f" ({', '.join(missing)}); whoever has installed it can add them: python3 -m pip"
            f" --python {sys.executable} install 'parsl[{extra}]=={version('parsl')}'",
        )


def check_sizes(provider: Any, path: KeyPath) -> None:
    """Check what sizes the blocks and their number.

    Raises:
        WrongOption: a number which Parsl would stumble over, or never run a task with.
    """
    if not isinstance(provider.parallelism, int | float) or not 0 < provider.parallelism <= 1:
        raise WrongOption((*path, "parallelism"), "must be a number above 0, up to 1")
    for name in ("nodes_per_block", "init_blocks", "min_blocks", "max_blocks"):
        least = 1 if name in ("nodes_per_block", "max_blocks") else 0
        value = getattr(provider, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise WrongOption((*path, name), f"must be an integer from {least}, not {value!r}")
    for name in ("init_blocks", "min_blocks"):
        if getattr(provider, name) > provider.max_blocks:
            raise WrongOption((*path, name), f"is above max_blocks ({provider.max_blocks})")


def warn_of_launcher(provider: Any, options: Mapping[str, Any]) -> None:
    """Log what a launcher will not do with a provider, where a site may still have made it so."""
    kind = options["type"]
    launcher = type(getattr(provider, "launcher", None)).__name__
    nodes = provider.nodes_per_block
    if launcher in _ONE_NODE and nodes > 1:
        log.warning(
            "engine.provider: %s starts workers on one of the %d nodes of a block (nodes_per_block)"
            " and leaves the others idle",
            launcher,
            nodes,
        )
    if kind != "LocalProvider" and kind not in _LAUNCHERS.get(launcher, (kind,)):
        log.warning("engine.provider: %s seldom works with %s", launcher, kind)
    if kind == "GridEngineProvider" and nodes > 1 and "-pe" not in provider.scheduler_options:
        log.warning(
            "engine.provider: GridEngineProvider asks for one slot, whatever nodes_per_block is:"
            " name a parallel environment in scheduler_options (#$ -pe NAME SLOTS)"
        )
