# SPDX-License-Identifier: Apache-2.0
"""``python -m globus_compute_endpoint``."""

from .cli import main

if __name__ == "__main__":
    main()
