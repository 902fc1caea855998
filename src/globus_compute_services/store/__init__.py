# SPDX-License-Identifier: Apache-2.0
"""What the services remember: identities, endpoints, functions, tasks, messages to be sent."""
