# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md covers the whole of the user's document, and names only tests there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/conformance.md").read_text()
LINES_OF_THE_DOCUMENT = 850
_ROW = re.compile(r"^\| (\d+)(?:-(\d+))? \| (.+) \| (.*) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`((?:[a-z_]+/)+test_\w+\.py)(?:::(\w+))?`")


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def rows() -> list[tuple[int, int, str, str]]:
    found = [
        (int(first), int(last or first), proof, state)
        for first, last, _, proof, state in _ROW.findall(PAGE)
    ]
    assert found
    return found


def test_no_line_of_the_document_is_left_out() -> None:
    expected = 1
    for first, last, _, _ in rows():
        assert first == expected and last >= first, f"line {expected} is not covered once"
        expected = last + 1
    assert expected == LINES_OF_THE_DOCUMENT + 1


def test_what_is_done_is_proved() -> None:
    unproved = [
        first for first, _, proof, state in rows() if state == "done" and not _TEST.search(proof)
    ]
    assert not unproved, f"rows from lines {unproved} name no test"


def test_what_is_not_done_has_a_reason() -> None:
    for first, _, _, state in rows():
        assert state in ("done", "no behaviour") or len(state) > 20, f"the row from line {first}"


@pytest.mark.parametrize(("path", "function"), sorted(set(_TEST.findall(PAGE))))
def test_the_tests_named_exist(path: str, function: str) -> None:
    file = TESTS / path
    assert file.is_file()
    assert not function or function in functions_in(file)
