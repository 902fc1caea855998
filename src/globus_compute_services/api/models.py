# SPDX-License-Identifier: Apache-2.0
"""What requests may hold. Fields that are not named here are ignored: SDKs grow."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from globus_compute_services.documents import storable_document, storable_text, unicode_text

__all__ = [
    "BatchStatusRequest",
    "EndpointRequest",
    "FunctionRequest",
    "SubmitRequest",
    "SubmitRequestV2",
]

Unicode = Annotated[str, AfterValidator(unicode_text)]
Text = Annotated[str, AfterValidator(storable_text)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
LongText = Annotated[Text, StringConstraints(max_length=64 * 1024)]
Document = Annotated[dict[str, Any], AfterValidator(storable_document)]


class FunctionRequest(BaseModel):
    """``POST /v3/functions``."""

    function_name: Name
    function_code: Annotated[Text, StringConstraints(min_length=1)]
    serialized: bool = True
    meta: Document | None = None
    description: LongText | None = None
    public: bool = False
    group: UUID | None = None
    ha_endpoint_id: UUID | None = None


class EndpointRequest(BaseModel):
    """``POST /v3/endpoints`` and ``PUT /v3/endpoints/{id}``."""

    endpoint_name: Name
    display_name: LongText | None = None
    multi_user: bool = False
    public: bool = False
    metadata: Document = Field(default_factory=dict)
    allowed_functions: list[UUID] | None = None
    authentication_policy: UUID | None = None
    subscription_uuid: UUID | None = None
    high_assurance: bool = False
    admins: list[UUID] | None = None

    @property
    def is_manager(self) -> bool:
        return self.multi_user or bool(self.metadata.get("user_config_template"))


class SubmitRequest(BaseModel):
    """``POST /v3/endpoints/{id}/submit``: payloads by function."""

    tasks: dict[UUID, list[Unicode]] = Field(min_length=1)
    task_group_id: UUID | None = None
    create_queue: bool = False
    user_endpoint_config: Document | None = None
    user_runtime: Document | None = None
    resource_specification: Document | None = None
    result_serializers: list[Name] | None = None


class SubmitRequestV2(BaseModel):
    """``POST /v2/submit``: tasks as (function, endpoint, payload), all for one endpoint."""

    tasks: list[tuple[UUID, UUID, Unicode]] = Field(min_length=1)
    task_group_id: UUID | None = None
    create_websocket_queue: bool = False


class BatchStatusRequest(BaseModel):
    """``POST /v2/batch_status``."""

    task_ids: list[UUID] = Field(max_length=10_000)
