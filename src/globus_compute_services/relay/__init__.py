# SPDX-License-Identifier: Apache-2.0
"""What moves between database and broker: tasks out, results and heartbeats in, start commands."""
