# SPDX-License-Identifier: Apache-2.0
"""Accounts: the names and passwords with which people sign in."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from globus_compute_services.auth.passwords import check_new_password, hash_password
from globus_compute_services.cli.clients import in_transaction
from globus_compute_services.documents import storable_text
from globus_compute_services.problem import Problem
from globus_compute_services.store.accounts import (
    change_password,
    create_account,
    delete_account,
    list_accounts,
)

__all__ = ["account"]

_LONGEST_NAME = 254

password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input, not a prompt."
)


@click.group()
def account() -> None:
    """Make, list, change and delete the accounts of people who sign in with a password."""


@account.command("create")
@click.argument("username")
@click.option("--linked-to", metavar="USERNAME", help="An identity of the same person.")
@password_stdin
@click.pass_obj
def create(config: Path, username: str, linked_to: str | None, password_stdin: bool) -> None:
    """Let USERNAME, such as alice@example.org, sign in with a password."""
    _check_username(username)
    password_hash = hash_password(_new_password(password_stdin))
    identity = in_transaction(
        config, lambda session: create_account(session, username, password_hash, linked_to)
    )
    print(f"Created account {username} (identity {identity.id})")


@account.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(config: Path, as_json: bool) -> None:
    """List accounts, and when their passwords were set."""
    rows = [
        {
            "username": identity.username,
            "identity_id": str(identity.id),
            "account_id": str(identity.account),
            "created": _when(stored.created),
            "password_changed": _when(stored.changed),
        }
        for stored, identity in in_transaction(config, list_accounts)
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['username']:<32} {row['identity_id']}  {row['password_changed']}")


@account.command("passwd")
@click.argument("username")
@click.option("--log-out", is_flag=True, help="Also end the logins stored with SDK and endpoints.")
@password_stdin
@click.pass_obj
def passwd(config: Path, username: str, log_out: bool, password_stdin: bool) -> None:
    """Set the password of USERNAME; browsers must sign in again."""
    password_hash = hash_password(_new_password(password_stdin))
    in_transaction(
        config,
        lambda session: change_password(session, username, password_hash, log_out=log_out),
    )
    print(f"Changed the password of {username}")


@account.command("delete")
@click.argument("username")
@click.pass_obj
def delete(config: Path, username: str) -> None:
    """Delete the account USERNAME and its logins; what its identity owns stays."""
    in_transaction(config, lambda session: delete_account(session, username))
    print(f"Deleted account {username}")


def _check_username(username: str) -> None:
    try:
        storable_text(username)
        acceptable = username.isprintable() and username == "".join(username.split())
    except ValueError:
        acceptable = False
    if not acceptable or not 0 < len(username) <= _LONGEST_NAME:
        raise Problem(
            f"{username!r} cannot be the name of an account",
            f"use at most {_LONGEST_NAME} printable characters without blanks, such as "
            "alice@example.org",
        )


def _new_password(from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise Problem("There is no terminal to ask for a password", "use --password-stdin")
    check_new_password(password)
    return password


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
