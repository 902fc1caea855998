# SPDX-License-Identifier: Apache-2.0
"""Root in full: forks user endpoints and does nothing else."""
