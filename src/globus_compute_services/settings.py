# SPDX-License-Identifier: Apache-2.0
"""The configuration file of the services, ``/etc/globus-compute-services/config.yaml``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from globus_compute_services.problem import ExitStatus, Problem

__all__ = [
    "CONFIG_FILE",
    "STATE_DIRECTORY",
    "BrokerSettings",
    "HttpSettings",
    "Settings",
    "TlsSettings",
    "load_settings",
]

CONFIG_FILE = Path("/etc/globus-compute-services/config.yaml")
STATE_DIRECTORY = Path("/var/lib/globus-compute-services")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TlsSettings(_Section):
    """A certificate, with its chain, and its private key; both PEM files."""

    certificate: Path
    key: Path


class HttpSettings(_Section):
    """Where the REST calls are served, and the URL by which clients know that place.

    ``host`` and ``port`` do not count where systemd hands sockets over; with ``tls``, either
    speaks HTTPS.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=5000, ge=1, le=65535)
    tls: TlsSettings | None = None
    public_url: str = "http://localhost:5000"

    @property
    def issuer(self) -> str:
        """The public URL without a slash at its end: what other addresses begin with."""
        return self.public_url.rstrip("/")


class BrokerSettings(_Section):
    """RabbitMQ as the services reach it, and as clients are told to reach it."""

    host: str = "127.0.0.1"
    port: int = Field(default=5672, ge=1, le=65535)
    vhost: str = "globus-compute"
    username: str = "globus-compute-services"
    password: str
    management_url: str = "http://127.0.0.1:15672"
    client_scheme: str = Field(default="amqp", pattern="^amqps?$")
    client_host: str = "127.0.0.1"
    client_port: int = Field(default=5672, ge=1, le=65535)

    def own_url(self) -> str:
        """The services' own connection URL."""
        return self._url("amqp", self.host, self.port, self.username, self.password)

    def client_url(self, account: str, password: str) -> str:
        """The connection URL handed to a client which signs in as ``account``."""
        return self._url(self.client_scheme, self.client_host, self.client_port, account, password)

    def _url(self, scheme: str, host: str, port: int, account: str, password: str) -> str:
        credentials = f"{quote(account, safe='')}:{quote(password, safe='')}"
        return f"{scheme}://{credentials}@{host}:{port}/{quote(self.vhost, safe='')}"


class Settings(_Section):
    """All of ``config.yaml``. ``key`` is the secret from which broker passwords are derived."""

    http: HttpSettings = HttpSettings()
    broker: BrokerSettings
    database_url: str = f"sqlite+aiosqlite:///{STATE_DIRECTORY}/services.sqlite3"
    key: str = Field(min_length=32)
    debug: bool = False
    max_payload_bytes: int = Field(default=10 * 1024 * 1024, ge=1)
    max_request_bytes: int = Field(default=128 * 1024 * 1024, ge=1024)
    token_lifetime_s: int = Field(default=48 * 3600, ge=60)
    retention_days: int = Field(default=14, ge=1, le=49)
    lock_s: int = Field(default=300, ge=1)


def load_settings(path: Path) -> Settings:
    """Read and check ``path``.

    Raises Problem naming the file and each wrong option.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise Problem(
            f"There is no {path}", "run: globus-compute-services init", ExitStatus.CONFIGURATION
        ) from None
    except PermissionError:
        raise Problem(
            f"{path} may not be read by this account",
            "run as root or as globus-compute-services",
            ExitStatus.NO_PERMISSION,
        ) from None
    except yaml.YAMLError as error:
        raise Problem(f"{path} is not YAML: {error}", "", ExitStatus.CONFIGURATION) from None
    try:
        return Settings.model_validate(document or {})
    except ValidationError as error:
        raise Problem(_what_is_wrong(path, error), "", ExitStatus.CONFIGURATION) from None


def _what_is_wrong(path: Path, error: ValidationError) -> str:
    # The input is left out on purpose: it may be a password.
    wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return f"{path}: {'; '.join(wrong)}"
