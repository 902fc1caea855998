# SPDX-License-Identifier: Apache-2.0
"""The side that talks to the network, and has no rights on the machine."""
