# SPDX-License-Identifier: Apache-2.0
"""The manager: uid 0 without capabilities or network; decides who may run what, and supervises."""
