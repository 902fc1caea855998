# SPDX-License-Identifier: Apache-2.0
import pytest
from pydantic import ValidationError

from globus_compute_endpoint.config.resource_control import EndpointLimits, Limits, ResourceControl


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 << 30), ("512M", 512 << 20), (4096, 4096), ("1.5K", 1536), ("infinity", 2**64 - 1)],
)
def test_sizes(text, size):
    assert Limits.model_validate({"MemoryMax": text}).MemoryMax == size


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("2d", 2 * 86400 * 10**6), ("1h 30min", 5400 * 10**6), (90, 90 * 10**6), ("250ms", 250_000)],
)
def test_time_spans(text, microseconds):
    limits = EndpointLimits.model_validate({"RuntimeMaxSec": text})
    assert limits.RuntimeMaxSec == microseconds


def test_properties_have_the_names_and_types_of_the_bus():
    limits = EndpointLimits.model_validate(
        {"CPUQuota": "200%", "RuntimeMaxSec": "1s", "OOMPolicy": "kill", "TasksMax": 5}
    )
    assert sorted(limits.properties()) == [
        ("CPUQuotaPerSecUSec", ("t", 2_000_000)),
        ("OOMPolicy", ("s", "kill")),
        ("RuntimeMaxUSec", ("t", 1_000_000)),
        ("TasksMax", ("t", 5)),
    ]


def test_percentages_are_of_this_machines_memory():
    half = Limits.model_validate({"MemoryMax": "50%"}).MemoryMax
    whole = Limits.model_validate({"MemoryMax": "100%"}).MemoryMax
    assert half is not None
    assert whole is not None
    assert abs(whole - 2 * half) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"MemoryMax": "8 Gigs"},
        {"MemoryMax": "0"},
        {"MemoryMax": True},
        {"CPUQuota": "2"},
        {"TasksMax": "-1"},
        {"CPUWeight": 0},
        {"MemoryMaximum": "1G"},
    ],
)
def test_what_systemd_would_not_take_is_refused(wrong):
    with pytest.raises(ValidationError):
        Limits.model_validate(wrong)


@pytest.mark.parametrize("wrong", ["2 fortnights", "d", ""])
def test_what_is_no_time_span_is_refused(wrong):
    with pytest.raises(ValidationError):
        EndpointLimits.model_validate({"RuntimeMaxSec": wrong})


def test_the_defaults_are_not_empty():
    defaults = ResourceControl()
    assert defaults.user.properties()
    assert defaults.endpoint.properties()


def test_what_a_slice_is_no_longer_limited_in_is_set_free():
    properties = dict(Limits.model_validate({"TasksMax": 5}).all_properties())
    assert properties["TasksMax"] == ("t", 5)
    assert properties["MemoryMax"] == ("t", 2**64 - 1)
    assert properties["CPUQuotaPerSecUSec"] == ("t", 2**64 - 1)
