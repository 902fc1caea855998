# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ: one event-driven connection, and accounts through its management API."""
