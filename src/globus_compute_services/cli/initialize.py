# SPDX-License-Identifier: Apache-2.0
"""``init``: everything the services need on this machine, made once and left alone after."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import click
import yaml
from sqlalchemy import make_url

from globus_compute_services.broker.management import Management, ManagementRefused
from globus_compute_services.broker.rpc import BrokerDown
from globus_compute_services.credentials import new_secret
from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.settings import (
    STATE_DIRECTORY,
    BrokerSettings,
    Settings,
    load_settings,
)
from globus_compute_services.store.database import Database

__all__ = ["init"]

_SERVICE_USER = "globus-compute-services"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_RABBITMQ_TIMEOUT_S = 120
_HEADER = "# Written by globus-compute-services init. It holds secrets: keep it 0640.\n"


@click.command()
@click.option("--database-url", help="A PostgreSQL database: postgresql+asyncpg://user@host/name")
@click.pass_obj
def init(config: Path, database_url: str | None) -> None:
    """Prepare RabbitMQ and the database, and write the configuration file.

    What is there already is kept, and what is missing is made: it can be run again at any time.
    Without a configuration file that names another RabbitMQ, the one on this machine is used, and
    this must run as root.
    """
    if not config.exists():
        _write(config, _new_settings(database_url))
    settings = load_settings(config)
    try:
        asyncio.run(_prepare_vhost(settings.broker))
    except Problem:
        if os.geteuid() != 0 or settings.broker.host not in _THIS_MACHINE:
            raise
        _prepare_local_rabbitmq(settings.broker)
        asyncio.run(_prepare_vhost(settings.broker))
    # From here on: what RabbitMQ's tools write must stay readable for RabbitMQ.
    os.umask(0o077)
    _make_state_directory(settings)
    asyncio.run(_prepare_database(settings.database_url))
    _hand_over(settings)
    print(f"Ready: {config}. Next: systemctl start globus-compute-services")


def _new_settings(database_url: str | None) -> Settings:
    if os.geteuid() != 0:
        raise Problem(
            "Only root can set up the RabbitMQ of this machine",
            "run as root, or give a --config FILE which names broker.password and key",
            ExitStatus.NO_PERMISSION,
        )
    settings = Settings(broker=BrokerSettings(password=new_secret()), key=new_secret())
    if database_url is not None:
        settings.database_url = database_url
    return settings


def _prepare_local_rabbitmq(broker: BrokerSettings) -> None:
    """Turn the management API on, and make the services' account an administrator."""
    if shutil.which("rabbitmqctl") is None:
        raise Problem(
            "RabbitMQ is not installed on this machine",
            "apt install rabbitmq-server; systemctl start rabbitmq-server",
            ExitStatus.UNAVAILABLE,
        )
    _rabbitmq("rabbitmq-plugins", "enable", "rabbitmq_management")
    users = _rabbitmq("rabbitmqctl", "--quiet", "list_users")
    known = {line.split("\t")[0] for line in users.splitlines()}
    verb = "change_password" if broker.username in known else "add_user"
    # On standard input the password is in no process list.
    _rabbitmq("rabbitmqctl", verb, broker.username, given=broker.password)
    _rabbitmq("rabbitmqctl", "set_user_tags", broker.username, "administrator")


def _rabbitmq(*command: str, given: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            check=True,
            timeout=_RABBITMQ_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        output = (error.stderr or error.stdout).strip().splitlines() or ["no output"]
        raise Problem(
            f"{' '.join(command)} failed: {output[0]}",
            "is it running? systemctl start rabbitmq-server",
            ExitStatus.UNAVAILABLE,
        ) from None
    except subprocess.TimeoutExpired:
        raise Problem(
            f"{' '.join(command)} did not end within {_RABBITMQ_TIMEOUT_S} s",
            "see: journalctl -u rabbitmq-server",
            ExitStatus.UNAVAILABLE,
        ) from None
    return done.stdout


def _write(config: Path, settings: Settings) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    document = settings.model_dump(
        include={"http": True, "broker": True, "database_url": True, "key": True}
    )
    temporary = config.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(_HEADER + yaml.safe_dump(document, sort_keys=False))
    if _service_user_exists():
        shutil.chown(temporary, "root", _SERVICE_USER)
    temporary.chmod(0o640)
    temporary.replace(config)


async def _prepare_vhost(broker: BrokerSettings) -> None:
    try:
        async with Management(
            broker.management_url, broker.username, broker.password, broker.vhost
        ) as management:
            await management.create_vhost(broker.username)
            if await management.delete_well_known_account():
                print("Deleted RabbitMQ's account guest, whose password everyone knows")
    except (BrokerDown, ManagementRefused) as error:
        raise Problem(
            str(error),
            "is RabbitMQ running, and are broker.username and broker.password right?",
            ExitStatus.UNAVAILABLE,
        ) from None


async def _prepare_database(url: str) -> None:
    database = Database(url)
    try:
        await database.create()
    finally:
        await database.close()


def _sqlite_file(settings: Settings) -> Path | None:
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database)


def _make_state_directory(settings: Settings) -> None:
    file = _sqlite_file(settings)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)


def _hand_over(settings: Settings) -> None:
    """The database belongs to the account that serves."""
    file = _sqlite_file(settings)
    if file is None or os.geteuid() != 0 or not _service_user_exists():
        return
    if file.parent != STATE_DIRECTORY:
        return
    for path in (file.parent, *file.parent.glob(f"{file.name}*")):
        shutil.chown(path, _SERVICE_USER, _SERVICE_USER)


def _service_user_exists() -> bool:
    try:
        pwd.getpwnam(_SERVICE_USER)
    except KeyError:
        return False
    return True
