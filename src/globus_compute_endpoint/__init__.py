# SPDX-License-Identifier: Apache-2.0
"""Globus Compute endpoints, at home in systemd."""

__all__ = ["__version__"]

__version__ = "5.0.0"
