# SPDX-License-Identifier: Apache-2.0
"""The user endpoint: takes tasks from a queue, has an engine run them, publishes the results."""
