# SPDX-License-Identifier: Apache-2.0
"""Clients: the ids and secrets with which researchers and endpoints sign in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.settings import load_settings
from globus_compute_services.store.database import Database
from globus_compute_services.store.identities import create_client, delete_client, list_clients

__all__ = ["client", "in_transaction"]

ResultT = TypeVar("ResultT")


def in_transaction(config: Path, work: Callable[[AsyncSession], Awaitable[ResultT]]) -> ResultT:
    """Run ``work`` in one write transaction of the configured database."""

    async def run() -> ResultT:
        database = Database(load_settings(config).database_url)
        try:
            await database.check()
            async with database.write() as session:
                return await work(session)
        finally:
            await database.close()

    return asyncio.run(run())


@click.group()
def client() -> None:
    """Make, list and delete clients."""


@client.command("create")
@click.argument("name")
@click.option("--username", required=True, help="Whom it signs in as, such as alice@example.org.")
@click.option("--linked-to", metavar="USERNAME", help="An identity of the same person.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(config: Path, name: str, username: str, linked_to: str | None, as_json: bool) -> None:
    """Make a client NAME; its secret is printed once and kept nowhere."""
    made = in_transaction(config, lambda session: create_client(session, name, username, linked_to))
    document = {
        "name": name,
        "client_id": str(made.client.id),
        "client_secret": made.secret,
        "username": made.identity.username,
        "identity_id": str(made.identity.id),
    }
    if as_json:
        print(json.dumps(document))
        return
    print(f"GLOBUS_COMPUTE_CLIENT_ID={document['client_id']}")
    print(f"GLOBUS_COMPUTE_CLIENT_SECRET={document['client_secret']}")


@client.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(config: Path, as_json: bool) -> None:
    """List clients and whom they sign in as."""
    rows: list[dict[str, Any]] = [
        {
            "name": client.name,
            "client_id": str(client.id),
            "username": identity.username,
            "identity_id": str(identity.id),
        }
        for client, identity in in_transaction(config, list_clients)
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['name']:<24} {row['client_id']}  {row['username']}")


@client.command("delete")
@click.argument("name")
@click.pass_obj
def delete(config: Path, name: str) -> None:
    """Delete client NAME and its tokens; what its identity owns stays."""
    in_transaction(config, lambda session: delete_client(session, name))
