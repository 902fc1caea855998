# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's management API: the virtual host, accounts and their permissions."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from globus_compute_services.broker.names import Rights
from globus_compute_services.broker.rpc import BrokerDown

__all__ = ["Management", "ManagementRefused"]

_TIMEOUT_S = 20
_NOT_FOUND = 404


class ManagementRefused(Exception):
    """The management API answered with an error. ``status`` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"RabbitMQ's management API answered {status}: {text}")
        self.status = status


class Management:
    """A client of the management API, for one virtual host."""

    def __init__(self, url: str, username: str, password: str, vhost: str) -> None:
        self._vhost = quote(vhost, safe="")
        self._http = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/",
            auth=(username, password),
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def create_vhost(self, owner: str) -> None:
        """Make the virtual host, and give ``owner`` all rights in it."""
        await self._call("PUT", f"vhosts/{self._vhost}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        await self._call("PUT", f"permissions/{self._vhost}/{quote(owner, safe='')}", everything)

    async def put_account(self, name: str, password: str, rights: Rights) -> None:
        """Make an account with exactly these rights, or give an existing one these and no others.

        The permission to write to an exchange comes last: without topic permissions it would
        be for all topics.
        """
        user = quote(name, safe="")
        await self._call("PUT", f"users/{user}", {"password": password, "tags": ""})
        for exchange, pattern in rights.topics:
            await self._call(
                "PUT",
                f"topic-permissions/{self._vhost}/{user}",
                {"exchange": exchange, "write": pattern, "read": "^$"},
            )
        await self._call(
            "PUT",
            f"permissions/{self._vhost}/{user}",
            {"configure": rights.configure, "write": rights.write, "read": rights.read},
        )

    async def delete_account(self, name: str) -> None:
        """Delete an account; the broker closes its connections. No account is no error."""
        try:
            await self._call("DELETE", f"users/{quote(name, safe='')}")
        except ManagementRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise

    async def delete_well_known_account(self) -> bool:
        """Delete the account ``guest`` if it still has its first password; tells whether it had.

        RabbitMQ makes it an administrator, for everyone who has a shell on its machine.
        """
        known = httpx.BasicAuth("guest", "guest")
        try:
            answer = await self._http.get("whoami", auth=known)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if answer.is_success:
            await self.delete_account("guest")
        return answer.is_success

    async def list_accounts(self) -> list[str]:
        """The names of all accounts with permissions in the virtual host."""
        answer = await self._call("GET", f"vhosts/{self._vhost}/permissions")
        return [str(entry["user"]) for entry in answer.json()]

    async def _call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if answer.is_error:
            raise ManagementRefused(answer.status_code, answer.text[:200])
        return answer


def _unreachable(error: httpx.HTTPError) -> BrokerDown:
    return BrokerDown(f"RabbitMQ's management API cannot be reached: {error!r}")
