# SPDX-License-Identifier: Apache-2.0
"""The endpoints which are looked at: what they are configured with, and what they left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.kind import is_manager
from globus_compute_endpoint.config.loading import load_file, validate
from globus_compute_endpoint.config.manager import load_manager_settings
from globus_compute_endpoint.diagnostics.addresses import Addresses, addresses_of
from globus_compute_endpoint.diagnostics.checks import Check, attempt
from globus_compute_endpoint.diagnostics.commands import output_of
from globus_compute_endpoint.diagnostics.redaction import redact, without_values
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint.configuration import checked
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory

__all__ = ["Subject", "system_subject", "user_subject"]

_LOG_BYTES = 1 << 20
_RUN_LOG_BYTES = 1 << 16
_RUN_FILES = 40
_JOURNAL_LINES = "3000"
_CONFIGURATION = (".yaml", ".yml", ".j2", ".json")
# What is in these is for processes and not for people; of their names one can tell enough.
_ENVIRONMENTS = ("gateway.env", "user_environment.yaml")


@dataclass(frozen=True)
class Subject:
    """An endpoint. ``log`` is the end of what it last said; ``load`` checks its configuration."""

    name: str
    directory: Path
    log: str
    load: Callable[[], CommonConfig]
    members: Callable[[], Iterator[tuple[str, str]]]

    def check_configuration(self) -> Check:
        """Check whether the endpoint would take its configuration."""

        def run() -> str:
            self.load()
            return str(self.directory / "config.yaml")

        return attempt(f"configuration of {self.name}", "correct what is named", run)

    def addresses(self) -> Addresses:
        """Return what it needs to reach, as far as its configuration can be read."""
        try:
            document = load_file(self.directory / "config.yaml")
            common = {key: document[key] for key in CommonConfig.model_fields if key in document}
            config = validate(CommonConfig, common, self.name)
        except Problem:  # told by check_configuration
            config = CommonConfig()
        return addresses_of(config, self.log)


def user_subject(directory: EndpointDirectory) -> Subject:
    """An endpoint in a person's directory."""
    path, name = directory.path, directory.path.name

    def load() -> CommonConfig:
        document = load_file(directory.config)
        if is_manager(document, path):
            return load_manager_settings(path).config
        return checked(document, str(directory.config))

    def members() -> Iterator[tuple[str, str]]:
        yield from _files(path)
        for log in sorted(path.glob("*.log")):
            yield log.name, redact(_tail(log, _LOG_BYTES))
        yield from _last_run(path)
        boot_unit = f"globus-compute-endpoint-{name}.service"
        yield "unit.txt", output_of("systemctl", "status", "--no-pager", "--full", boot_unit)
        yield "journal.txt", _journal("-u", boot_unit)
        yield "journal-of-the-user.txt", _journal("--user", "-u", "globus-compute-*")

    return Subject(name, path, _tail(directory.log, _LOG_BYTES), load, members)


def system_subject(paths: EndpointPaths) -> Subject:
    """An endpoint of the system, which systemd runs."""
    units = [
        f"globus-compute-endpoint{part}@{paths.name}.service"
        for part in ("", "-gateway", "-spawner")
    ]
    of_units = [word for unit in units for word in ("-u", unit)]
    journal = _journal(*of_units)

    def load() -> CommonConfig:
        return load_manager_settings(paths.configuration).config

    def members() -> Iterator[tuple[str, str]]:
        yield from _files(paths.configuration)
        if paths.registration.is_file():
            yield "state/endpoint.json", redact(_tail(paths.registration, _LOG_BYTES))
        yield "units.txt", output_of("systemctl", "status", "--no-pager", "--full", *units)
        yield "units-in-full.txt", output_of("systemctl", "show", "--no-pager", *units)
        yield "slices.txt", output_of("systemctl", "status", "--no-pager", "globus-compute.slice")
        yield "journal.txt", journal

    return Subject(paths.name, paths.configuration, journal, load, members)


def _files(directory: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.iterdir()):
        if not path.is_file():
            continue
        if path.name in _ENVIRONMENTS:
            yield path.name, without_values(_tail(path, _LOG_BYTES))
        elif path.suffix in _CONFIGURATION:
            yield path.name, redact(_tail(path, _LOG_BYTES))


def _last_run(directory: Path) -> Iterator[tuple[str, str]]:
    """Parsl's logs, and what blocks have said, of the executor which ran last."""
    runs = [each for each in (directory / "htex").glob("*") if each.is_dir()]
    if not runs:
        return
    run = max(runs, key=lambda each: each.stat().st_mtime)
    wanted = (".log", ".stdout", ".stderr", ".out", ".err", ".sh")
    files = [each for each in run.rglob("*") if each.suffix in wanted and each.is_file()]
    files.sort(key=lambda each: each.stat().st_mtime)
    for path in files[-_RUN_FILES:]:
        yield f"htex/{path.relative_to(run.parent)}", redact(_tail(path, _RUN_LOG_BYTES))


def _journal(*selection: str) -> str:
    options = ("--no-pager", "--quiet", "-n", _JOURNAL_LINES, "-o", "short-iso")
    return output_of("journalctl", *options, *selection)


def _tail(path: Path, size: int) -> str:
    """Return the end of a file, from the beginning of a line, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - size))
            data = file.read(size)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    text = data.decode(errors="replace")
    return text if length <= size else text.partition("\n")[2]
