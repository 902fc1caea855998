# SPDX-License-Identifier: Apache-2.0
"""The machine behind small interfaces: the only package that talks to D-Bus, prctl or journald."""
