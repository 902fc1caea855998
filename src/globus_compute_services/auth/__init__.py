# SPDX-License-Identifier: Apache-2.0
"""Sign-in: the subset of OAuth 2 and OpenID Connect which the SDK uses."""
