# SPDX-License-Identifier: Apache-2.0
"""What is collected where an endpoint does not work, and what can be tried from outside."""
