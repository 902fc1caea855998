# SPDX-License-Identifier: Apache-2.0
"""Forgets what is of no use to anyone any more: once at the start, then every hour."""

from __future__ import annotations

import asyncio
import logging
import time
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.broker import names
from globus_compute_services.broker.accounts import Accounts
from globus_compute_services.broker.link import BrokerLink
from globus_compute_services.broker.management import Management, ManagementRefused
from globus_compute_services.broker.rpc import BrokerDown, BrokerRefused
from globus_compute_services.store.database import Database
from globus_compute_services.store.grants import forget_expired
from globus_compute_services.store.schema import (
    BrokerAccount,
    Endpoint,
    Kind,
    Submission,
    Task,
    TaskGroup,
    Token,
)

__all__ = ["Housekeeper"]

log = logging.getLogger(__name__)

_PERIOD_S = 3600.0
_DAY_S = 24 * 3600.0


class Housekeeper:
    """Deletes what has expired, old task groups, and user endpoints long unused."""

    def __init__(
        self,
        database: Database,
        link: BrokerLink,
        *,
        management: Management,
        accounts: Accounts,
        retention_days: int,
    ) -> None:
        self._database = database
        self._link = link
        self._management = management
        self._accounts = accounts
        self._retention_s = retention_days * _DAY_S

    async def run(self) -> None:
        """Tidy up, for ever. A broker which does not answer is asked again next time."""
        while True:
            await self._link.up.wait()
            try:
                await self.tidy()
            except (BrokerDown, BrokerRefused, ManagementRefused) as error:
                log.warning("Tidying up goes on in an hour: %s", error)
            await asyncio.sleep(_PERIOD_S)

    async def tidy(self) -> None:
        now = time.time()
        async with self._database.write() as session:
            await session.execute(delete(Token).where(Token.expires < now))
            await forget_expired(session)
            await session.execute(delete(Submission).where(Submission.created < now - _DAY_S))
            await self._forget_groups(session, now - self._retention_s)
            unused = await self._forget_user_endpoints(session, now - self._retention_s)
        for endpoint in unused:
            await self._accounts.remove(endpoint.id)
        await self._remove_result_accounts(now)
        await self._remove_stray_accounts()

    async def _forget_groups(self, session: AsyncSession, before: float) -> None:
        """Task groups all of whose tasks are done, and which nobody touched for long."""
        outstanding = (
            select(Task.id).where(Task.group_id == TaskGroup.id, Task.completed.is_(None)).exists()
        )
        old = select(TaskGroup.id).where(TaskGroup.touched < before, ~outstanding)
        ids = list(await session.scalars(old))
        for group_id in ids:
            await session.execute(delete(Task).where(Task.group_id == group_id))
            await session.execute(delete(TaskGroup).where(TaskGroup.id == group_id))
        if ids:
            log.info("Forgot %d task groups", len(ids))

    async def _forget_user_endpoints(self, session: AsyncSession, before: float) -> list[Endpoint]:
        known = (
            select(Task.id).where(Task.target_id == Endpoint.id).exists()
        )  # with the task groups gone, so are the tasks of a user endpoint long unused
        unused = list(
            await session.scalars(
                select(Endpoint).where(
                    Endpoint.kind == Kind.USER, Endpoint.created < before, ~known
                )
            )
        )
        gone = [endpoint for endpoint in unused if (endpoint.seen or 0.0) < before]
        for endpoint in gone:
            await session.delete(endpoint)
        return gone

    async def _remove_result_accounts(self, now: float) -> None:
        async with self._database.read() as session:
            expired = list(
                await session.scalars(select(BrokerAccount.name).where(BrokerAccount.expires < now))
            )
        for account in expired:
            await self._accounts.remove_result_account(account)
        async with self._database.write() as session:
            await session.execute(delete(BrokerAccount).where(BrokerAccount.name.in_(expired)))

    async def _remove_stray_accounts(self) -> None:
        """Accounts of endpoints which were deleted while the broker was away."""
        on_broker = {
            endpoint
            for account in await self._management.list_accounts()
            if (endpoint := names.endpoint_of_account(account)) is not None
        }
        async with self._database.read() as session:
            known: set[UUID] = set(
                await session.scalars(select(Endpoint.id).where(Endpoint.id.in_(on_broker)))
            )
        for endpoint in on_broker - known:
            await self._accounts.remove(endpoint)
