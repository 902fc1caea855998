# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from globus_compute_services.documents import storable_document, storable_text, unicode_text


@pytest.mark.parametrize(
    "document", [{"a": float("nan")}, {"a": ["\ud800"]}, {"\udfff": 1}, {"a": "x" * 2**20}]
)
def test_documents_that_others_could_not_read(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"JSON|Unicode|bytes"):
        storable_document(document)


def test_ordinary_documents_stay_as_they_are() -> None:
    document = {"a": [1, 2.5, None, True, "ä\0🎉"]}
    assert storable_document(document) is document


def test_text() -> None:
    assert storable_text("ä🎉") == "ä🎉"
    with pytest.raises(ValueError, match="NUL"):
        storable_text("a\0")
    with pytest.raises(ValueError, match="Unicode"):
        unicode_text("\ud83d")
