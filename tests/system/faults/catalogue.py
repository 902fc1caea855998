# SPDX-License-Identifier: Apache-2.0
"""All faults which the program is to bear, by name."""

from __future__ import annotations

from system.faults.batch import BATCH_FAULTS
from system.faults.credentials import CREDENTIALS_FAULTS
from system.faults.homes import HOME_FAULTS
from system.faults.services import SERVICES_FAULTS
from system.faults.stage import Fault
from system.faults.units import UNIT_FAULTS
from system.faults.user_endpoints import USER_ENDPOINT_FAULTS, WORKER_FAULTS
from system.faults.whole import WHOLE_FAULTS

_ALL = (
    *UNIT_FAULTS,
    *USER_ENDPOINT_FAULTS,
    *WORKER_FAULTS,
    *BATCH_FAULTS,
    *SERVICES_FAULTS,
    *CREDENTIALS_FAULTS,
    *WHOLE_FAULTS,
    *HOME_FAULTS,
)
FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
