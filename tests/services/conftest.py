# SPDX-License-Identifier: Apache-2.0
"""These tests need the RabbitMQ and the PostgreSQL of a test host: see ``tests/services/run``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from services.harness import Researcher, Services
from support.webdriver import Page, chromium

_numbers = count(1)


def _postgresql_url() -> str:
    name = f"services_{os.getpid()}_{next(_numbers)}"
    for statement in (
        f"CREATE ROLE {name} LOGIN PASSWORD '{name}'",
        f"CREATE DATABASE {name} OWNER {name}",
    ):
        subprocess.run(
            ["runuser", "-u", "postgres", "--", "psql", "-qc", statement],
            check=True,
            timeout=60,
            cwd="/",
        )
    return f"postgresql+asyncpg://{name}:{name}@127.0.0.1/{name}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module's tests run on SQLite, and on what else its DATABASES name."""
    if "services" in metafunc.fixturenames:
        databases = getattr(metafunc.module, "DATABASES", ("sqlite",))
        metafunc.parametrize("services", databases, indirect=True, scope="module")


@pytest.fixture(scope="session")
def first_services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Services which set RabbitMQ up; they are not started."""
    directory = tmp_path_factory.mktemp("first")
    made = Services(directory, f"sqlite+aiosqlite:///{directory}/services.sqlite3")
    made.initialize()
    return made


@pytest.fixture(scope="module")
def services(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    first_services: Services,
) -> Iterator[Services]:
    """Running services, with nothing in their database."""
    directory = tmp_path_factory.mktemp("services")
    url = f"sqlite+aiosqlite:///{directory}/services.sqlite3"
    if request.param == "postgresql":
        url = _postgresql_url()
    made = Services(directory, url)
    made.initialize(first_services, **getattr(request.module, "SETTINGS", {}))
    made.start()
    yield made
    if made.process is not None:
        assert made.stop() == 0
    print(made.log_text())


@pytest.fixture(scope="module")
def new_researcher(services: Services) -> Callable[[str], Researcher]:
    """Makes researchers; each call makes an identity of its own, unless it is linked."""
    numbers = count(1)

    def make(name: str, linked_to: str | None = None) -> Researcher:
        label = f"{name}{next(numbers)}"
        return services.researcher(label, f"{label}@example.org", linked_to)

    return make


@pytest.fixture(scope="module")
def alice(new_researcher: Callable[[str], Researcher]) -> Researcher:
    return new_researcher("alice")


@pytest.fixture(scope="module")
def bob(new_researcher: Callable[[str], Researcher]) -> Researcher:
    return new_researcher("bob")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page
