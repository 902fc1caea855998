# SPDX-License-Identifier: Apache-2.0
"""From a Globus identity set to the name of a local user, by the administrator's mapping file."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from globus_identity_mapping.loader import load_mappers
from globus_identity_mapping.protocol import IdentityMappingProtocol

from globus_compute_endpoint.manager.protocol import Identity
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["IdentityMapping", "Mapped", "load_mapping"]

log = logging.getLogger(__name__)

_HINT = "see the example beside it, and 'Identity Mapping' in globus-compute-endpoint(1)"


@dataclass(frozen=True)
class Mapped:
    """Which identity of the set was taken for which local user."""

    identity: Identity
    uname: str


class IdentityMapping:
    """The mapping file as it last was valid; :meth:`reload` swaps it whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mappers = load_mapping(path)

    def reload(self) -> None:
        """Take the file anew; an invalid one is refused and the old stays in force."""
        try:
            self._mappers = load_mapping(self.path)
        except Problem as problem:
            log.error("the new identity mapping is refused, the old stays: %s", problem)
        else:
            log.info("took the new identity mapping %s", self.path)

    def put(self, path: Path, mappers: list[IdentityMappingProtocol]) -> None:
        """Let a file which was loaded and found valid take the place of the present one."""
        self.path, self._mappers = path, mappers

    def map(self, identities: tuple[Identity, ...]) -> Mapped | None:
        """The first identity that a mapping accepts, mappings in the file's order."""
        for mapper in self._mappers:
            for identity in identities:
                uname = mapper.map_identity(identity.as_globus_auth())
                if uname:
                    return Mapped(identity, uname)
        return None


def load_mapping(path: Path) -> list[IdentityMappingProtocol]:
    """Parse and check a mapping file; raises Problem."""
    try:
        text = path.read_text()
    except OSError as error:
        raise Problem(
            "IDENTITY_MAPPING_UNREADABLE",
            f"cannot read the identity mapping {path}: {error.strerror}",
            "it must exist and belong to root",
            ExitStatus.NO_PERMISSION,
        ) from error
    try:
        documents = json.loads(text)
        if not isinstance(documents, list) or not documents:
            raise ValueError("it must be a list of at least one mapping document")
        for document in documents:
            _refuse_external_programs(document)
        mappers = load_mappers(documents, "globus-compute", "globus-compute")
        if len(mappers) != len(documents):
            raise ValueError("a DATA_TYPE in it is not known")
    # The library raises ValueError, KeyError, TypeError and its own errors for bad documents.
    except Exception as error:
        raise Problem(
            "IDENTITY_MAPPING_INVALID",
            f"the identity mapping {path} is invalid: {error}",
            _HINT,
            ExitStatus.CONFIGURATION,
        ) from error
    return mappers


def _refuse_external_programs(document: object) -> None:
    if not isinstance(document, dict):
        raise TypeError("each mapping document must be an object")
    if str(document.get("DATA_TYPE", "")).startswith("external_identity_mapping"):
        raise ValueError("external mapping programs are not supported yet; use expressions")
