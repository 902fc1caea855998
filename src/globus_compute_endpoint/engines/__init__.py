# SPDX-License-Identifier: Apache-2.0
"""What runs tasks: threads, processes, or blocks of a cluster."""
