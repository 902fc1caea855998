# SPDX-License-Identifier: Apache-2.0
"""What people configure: models of each file, their loading, and the template of user endpoints."""
