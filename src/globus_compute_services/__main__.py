# SPDX-License-Identifier: Apache-2.0
"""``python -m globus_compute_services``."""

from globus_compute_services.cli import main

main()
