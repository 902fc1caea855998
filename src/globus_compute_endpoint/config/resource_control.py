# SPDX-License-Identifier: Apache-2.0
"""``resource_control:`` in a manager's configuration: systemd's own property names, checked.

See systemd.resource-control(5) for what each limits.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["EndpointLimits", "Limits", "ResourceControl"]

_INFINITY = 2**64 - 1
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(?:iB|B)?")
_SIZE_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_SPAN_UNITS = {
    "": 1.0,
    "ms": 1e-3,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
}


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(value: Any) -> int:
    """Bytes, from ``8G``, ``512M``, ``25%`` of the machine's memory, a number, or ``infinity``."""
    text = str(value).strip()
    if text == "infinity":
        return _INFINITY
    if percent := _PERCENT.fullmatch(text):
        return int(_physical_memory() * float(percent[1]) / 100)
    if not isinstance(value, bool) and (size := _SIZE.fullmatch(text)):
        return int(float(size[1]) * 1024 ** _SIZE_UNITS[size[2]])
    raise ValueError(f"'{value}' is no size: write e.g. 8G, 512M, 25% or infinity")


def _tasks(value: Any) -> int:
    text = str(value).strip()
    if text == "infinity":
        return _INFINITY
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ValueError(f"'{value}' is no number of tasks: write e.g. 512 or infinity")


def _quota(value: Any) -> int:
    """Microseconds of CPU time a second, from ``200%`` (two CPUs)."""
    percent = _PERCENT.fullmatch(str(value).strip())
    if not percent or float(percent[1]) <= 0:
        raise ValueError(f"'{value}' is no CPU quota: write a percentage of one CPU, e.g. 200%")
    return int(float(percent[1]) * 1e4)


def _span(value: Any) -> int:
    """Microseconds, from ``2d``, ``1h 30min``, or a number of seconds; see systemd.time(7)."""
    text = str(value).strip()
    if text == "infinity":
        return _INFINITY
    parts = _SPAN.findall(text)
    well_formed = re.fullmatch(r"(\d+(\.\d+)?\s*[a-z]*\s*)+", text)
    if not well_formed or any(unit not in _SPAN_UNITS for _, unit in parts):
        raise ValueError(f"'{value}' is no time span: write e.g. 2d, 12h or 1h 30min")
    return round(sum(float(number) * _SPAN_UNITS[unit] for number, unit in parts) * 1e6)


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must be more than zero")
    return value


_Size = Annotated[int, BeforeValidator(_size), AfterValidator(_not_zero)]
_Tasks = Annotated[int, BeforeValidator(_tasks)]
_Quota = Annotated[int, BeforeValidator(_quota)]
_Span = Annotated[int, BeforeValidator(_span), AfterValidator(_not_zero)]
_Weight = Annotated[int, Field(ge=1, le=10000)]

_DBUS_NAMES = {"CPUQuota": "CPUQuotaPerSecUSec"}
_DBUS_STRINGS = {"OOMPolicy"}


class Limits(BaseModel):
    """Limits of one unit; an option which is absent stays at systemd's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    MemoryMax: _Size | None = None
    MemoryHigh: _Size | None = None
    MemorySwapMax: _Size | None = None
    CPUQuota: _Quota | None = None
    CPUWeight: _Weight | None = None
    IOWeight: _Weight | None = None
    TasksMax: _Tasks | None = None

    def properties(self) -> list[tuple[str, tuple[str, object]]]:
        """As org.freedesktop.systemd1 takes them."""
        return [
            self._property(name, value)
            for name, value in self.model_dump(exclude_none=True).items()
        ]

    def all_properties(self) -> list[tuple[str, tuple[str, object]]]:
        """As :meth:`properties`, and what is not limited is set free, should it have been.

        These are the ones which systemd lets be changed while a unit runs.
        """
        values = {name: getattr(self, name) for name in Limits.model_fields}
        return [
            self._property(name, _INFINITY if value is None else value)
            for name, value in values.items()
        ]

    @staticmethod
    def _property(name: str, value: object) -> tuple[str, tuple[str, object]]:
        if name.endswith("Sec"):
            return name.removesuffix("Sec") + "USec", ("t", value)
        return _DBUS_NAMES.get(name, name), ("s" if name in _DBUS_STRINGS else "t", value)


class EndpointLimits(Limits):
    """Limits of one user endpoint's scope; these kinds slices do not have."""

    RuntimeMaxSec: _Span | None = None
    TimeoutStopSec: _Span | None = None
    OOMPolicy: Literal["stop", "kill", "continue"] | None = None


class ResourceControl(BaseModel):
    """What one local user, and each single user endpoint, may use.

    The defaults keep one user from taking the whole machine; they are meant to be changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: Limits = Field(
        default_factory=lambda: Limits.model_validate({"MemoryMax": "80%", "TasksMax": 8192})
    )
    endpoint: EndpointLimits = Field(
        default_factory=lambda: EndpointLimits.model_validate(
            {"MemoryMax": "60%", "TasksMax": 4096, "TimeoutStopSec": "30s"}
        )
    )
