# SPDX-License-Identifier: Apache-2.0
import pytest

from globus_compute_services.auth.scopes import COMPUTE_SCOPE, group_by_server


def test_scopes_are_grouped_by_resource_server() -> None:
    asked = f"openid {COMPUTE_SCOPE} email"
    assert group_by_server(asked) == {
        "auth.globus.org": "openid email",
        "funcx_service": COMPUTE_SCOPE,
    }


def test_none_asked_for_means_all() -> None:
    assert set(group_by_server("")) == {"auth.globus.org", "funcx_service"}


def test_dependent_scopes_are_ignored() -> None:
    assert group_by_server(f"{COMPUTE_SCOPE}[a *b[c]]") == {"funcx_service": COMPUTE_SCOPE}


def test_an_unknown_scope_is_named() -> None:
    with pytest.raises(ValueError, match="transfer"):
        group_by_server("openid transfer")
