# SPDX-License-Identifier: Apache-2.0
"""``python -m globus_compute_endpoint``."""

from globus_compute_endpoint.cli import main

if __name__ == "__main__":
    main()
