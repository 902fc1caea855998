# SPDX-License-Identifier: Apache-2.0
"""A manager which an ordinary user runs: its user endpoints are that user's too."""
