# SPDX-License-Identifier: Apache-2.0
"""A forwarder for researchers' laptops: what the SDK looks for on localhost, by way of TLS."""
