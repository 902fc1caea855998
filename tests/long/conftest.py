# SPDX-License-Identifier: Apache-2.0
"""The long tests share the warm site of the system tests."""

from system.conftest import warm

__all__ = ["warm"]
