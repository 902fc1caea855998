# SPDX-License-Identifier: Apache-2.0
from uuid import UUID

import pytest
from pydantic import ValidationError

from globus_compute_endpoint.manager.protocol import (
    Identity,
    ProblemFields,
    Start,
    Status,
    pack,
    parse_from_gateway,
)
from globus_compute_endpoint.problem import ExitStatus, Problem

ALICE = Identity(sub=UUID(int=1), username="alice@example.org")


def start(**changes):
    fields = {
        "number": 1,
        "endpoint_id": UUID(int=2),
        "name": "uep.a.b",
        "effective_identity": UUID(int=1),
        "identities": (ALICE,),
    }
    return Start(**(fields | changes))


def test_a_frame_and_its_blob_come_back():
    blob = b'{"any": "\xff\n"}'
    assert parse_from_gateway(pack(start(), blob)) == (start(), blob)


def test_a_name_with_a_newline_cannot_end_the_head():
    frame, blob = parse_from_gateway(
        pack(start(identities=(Identity(sub=UUID(int=1), username="a\nb"),)))
    )
    assert isinstance(frame, Start)
    assert frame.identities[0].username == "a\nb"
    assert blob == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc"},
        {"name": "x" * 129},
        {"identities": (ALICE,) * 65},
        {"endpoint_id": "root"},
    ],
)
def test_frames_out_of_bounds_are_refused(changes):
    with pytest.raises(ValidationError):
        start(**changes)


@pytest.mark.parametrize("packet", [b"", b"[]", b"{}", b'{"type": "exec"}', b"\xff\n"])
def test_what_is_no_frame_is_refused(packet):
    with pytest.raises(ValidationError):
        parse_from_gateway(packet)


def test_a_problem_is_cut_to_fit_its_frame():
    fields = ProblemFields.of(Problem("CODE", "x" * 100_000, "y" * 5000, ExitStatus.DATA))
    assert len(fields.message) == 8192
    assert fields.exit_status == 65


def test_a_status_is_one_line():
    with pytest.raises(ValidationError):
        Status(ready=True, text="x\nWATCHDOG=trigger")
