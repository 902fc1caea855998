# SPDX-License-Identifier: Apache-2.0
"""The tables. Times are seconds since the epoch; identifiers are UUIDs."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, LargeBinary, Text, Uuid
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "AuthorizationCode",
    "Base",
    "BrokerAccount",
    "Client",
    "Consent",
    "Endpoint",
    "Function",
    "GroupMember",
    "Identity",
    "Kind",
    "LocalAccount",
    "Outbox",
    "OutboxKind",
    "RefreshToken",
    "SchemaInfo",
    "SignInSession",
    "SigningKey",
    "Submission",
    "Task",
    "TaskGroup",
    "Token",
]


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        UUID: Uuid(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        list[dict[str, Any]]: JSON(),
        bytes: LargeBinary(),
        float: Double(),
        str: Text(),
    }


class SchemaInfo(Base):
    """One row: which version of these tables the database holds."""

    __tablename__ = "schema_info"
    version: Mapped[int] = mapped_column(primary_key=True)


class Identity(Base):
    """Someone who may sign in. Identities of one ``account`` are linked."""

    __tablename__ = "identities"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    account: Mapped[UUID] = mapped_column(index=True)
    username: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    email: Mapped[str]
    organization: Mapped[str]
    created: Mapped[float]


class Client(Base):
    """A client id and secret by which programs sign in as an identity.

    A public client has no secret: people sign in with it, and its identity is its own.
    """

    __tablename__ = "clients"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"))
    secret_hash: Mapped[str]
    created: Mapped[float]

    @property
    def is_public(self) -> bool:
        return not self.secret_hash


class LocalAccount(Base):
    """A password with which a person signs in as an identity."""

    __tablename__ = "local_accounts"
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"), primary_key=True)
    password_hash: Mapped[str]
    created: Mapped[float]
    changed: Mapped[float]


class SignInSession(Base):
    """A browser in which someone has signed in, by the digest of its cookie.

    ``challenge`` is that of the authorization request which they signed in for.
    """

    __tablename__ = "sign_in_sessions"
    digest: Mapped[str] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"), index=True)
    challenge: Mapped[str]
    signed_in: Mapped[float]
    expires: Mapped[float]


class Consent(Base):
    """A scope which a person has allowed a client."""

    __tablename__ = "consents"
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"), primary_key=True)
    client_id: Mapped[UUID] = mapped_column(
        ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True
    )
    scope: Mapped[str] = mapped_column(primary_key=True)
    granted: Mapped[float]


class AuthorizationCode(Base):
    """A code to be exchanged for tokens once, by its digest, and what it is bound to."""

    __tablename__ = "authorization_codes"
    digest: Mapped[str] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"))
    client_id: Mapped[UUID] = mapped_column(ForeignKey("clients.id", ondelete="CASCADE"))
    redirect_uri: Mapped[str]
    challenge: Mapped[str]
    scopes: Mapped[str]
    offline: Mapped[bool]
    signed_in: Mapped[float]
    expires: Mapped[float]


class RefreshToken(Base):
    """A stored login, by the digest of its token; it goes when it was not used for long."""

    __tablename__ = "refresh_tokens"
    digest: Mapped[str] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"), index=True)
    client_id: Mapped[UUID] = mapped_column(ForeignKey("clients.id", ondelete="CASCADE"))
    scope: Mapped[str]
    resource_server: Mapped[str]
    issued: Mapped[float]
    used: Mapped[float]


class SigningKey(Base):
    """The RSA key which signs id tokens, in PEM."""

    __tablename__ = "signing_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    private_key: Mapped[str]
    created: Mapped[float]


class Token(Base):
    """An access token, by its digest."""

    __tablename__ = "tokens"
    digest: Mapped[str] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"))
    client_id: Mapped[UUID] = mapped_column(ForeignKey("clients.id", ondelete="CASCADE"))
    scope: Mapped[str]
    resource_server: Mapped[str]
    issued: Mapped[float]
    expires: Mapped[float]


class GroupMember(Base):
    """Membership in a group with which functions can be shared."""

    __tablename__ = "group_members"
    group_id: Mapped[UUID] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"), primary_key=True)


class Kind(StrEnum):
    """What an endpoint is: its tasks go to itself (single, user) or to user endpoints (manager)."""

    SINGLE = "single"
    MANAGER = "manager"
    USER = "user"


class Endpoint(Base):
    """An endpoint: registered by its owner, or (kind user) started for ``owner_id`` by a manager.

    ``seen`` is when the last sign of life came, ``heartbeat_period`` when the next is due after
    it; 0 means that the endpoint said goodbye. ``user_key`` is what makes a user endpoint one and
    the same: manager, identity and configuration.
    """

    __tablename__ = "endpoints"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"), index=True)
    name: Mapped[str]
    display_name: Mapped[str | None]
    public: Mapped[bool]
    details: Mapped[dict[str, Any]]
    allowed_functions: Mapped[list[str] | None]
    authentication_policy: Mapped[UUID | None]
    subscription_uuid: Mapped[UUID | None]
    high_assurance: Mapped[bool]
    admins: Mapped[list[str] | None]
    generation: Mapped[int]
    locked_until: Mapped[float | None]
    seen: Mapped[float | None]
    heartbeat_period: Mapped[float]
    report: Mapped[dict[str, Any]]
    created: Mapped[float]
    manager_id: Mapped[UUID | None] = mapped_column(index=True)
    user_key: Mapped[str | None] = mapped_column(unique=True)
    user_config: Mapped[dict[str, Any] | None]
    user_runtime: Mapped[dict[str, Any] | None]


class Function(Base):
    """A registered function; ``code`` is packed, or plain source if not ``serialized``."""

    __tablename__ = "functions"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"))
    name: Mapped[str]
    code: Mapped[str]
    serialized: Mapped[bool]
    meta: Mapped[dict[str, Any]]
    description: Mapped[str | None]
    public: Mapped[bool]
    group_id: Mapped[UUID | None]
    created: Mapped[float]


class TaskGroup(Base):
    """Tasks whose results share one result queue, and which are forgotten together."""

    __tablename__ = "task_groups"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID] = mapped_column(ForeignKey("identities.id"))
    has_queue: Mapped[bool]
    created: Mapped[float]
    touched: Mapped[float]


class Task(Base):
    """A task. It is outstanding until ``completed`` is set, and that happens once.

    ``endpoint_id`` is where it was submitted, ``target_id`` who runs it (not the same for
    managers). ``result`` is the packed Result as it goes to the researcher.
    """

    __tablename__ = "tasks"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    group_id: Mapped[UUID] = mapped_column(ForeignKey("task_groups.id"), index=True)
    identity_id: Mapped[UUID]
    endpoint_id: Mapped[UUID]
    target_id: Mapped[UUID]
    function_id: Mapped[UUID]
    status: Mapped[str]
    created: Mapped[float]
    completed: Mapped[float | None]
    result: Mapped[bytes | None]
    __table_args__ = (Index("ix_tasks_target_open", "target_id", "completed"),)


class Submission(Base):
    """The answer to a submit which has not been written out to the client yet."""

    __tablename__ = "submissions"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(index=True)
    answer: Mapped[dict[str, Any]]
    created: Mapped[float]


class OutboxKind(StrEnum):
    """What a row of the outbox asks of the broker."""

    TASK = "task"
    RESULT = "result"
    RESET = "reset"


class Outbox(Base):
    """Something the broker has not confirmed yet, in the order of ``id``.

    TASK and RESULT publish ``body`` to ``queue``; RESET empties ``queue``, also of what a consumer
    holds unacknowledged.
    """

    __tablename__ = "outbox"
    # SQLite would give the id of a row deleted while it is being sent to a newer one, which would
    # then be forgotten in its place.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 (SQLAlchemy reads it)
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    kind: Mapped[str]
    queue: Mapped[str]
    task_id: Mapped[UUID | None] = mapped_column(index=True)
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes]
    size: Mapped[int]


class BrokerAccount(Base):
    """A researcher's broker account for results, deleted after ``expires``."""

    __tablename__ = "broker_accounts"
    name: Mapped[str] = mapped_column(primary_key=True)
    identity_id: Mapped[UUID]
    expires: Mapped[float]
