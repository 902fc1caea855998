# SPDX-License-Identifier: Apache-2.0
"""All that the installed SDK can serialize with, there and back through a real endpoint."""

from __future__ import annotations

import pytest
from globus_compute_sdk.serialize.concretes import (
    SELECTABLE_CODE_STRATEGIES,
    SELECTABLE_DATA_STRATEGIES,
)

from endpoint.personal import Person

pytestmark = pytest.mark.timeout(150)

_ENGINES = {
    # The wildcards are as good as no list.
    "threads": """
  type: ThreadPoolEngine
  allowed_serializers: [globus_compute_sdk.*Code, globus_compute_sdk.*Data]
""",
    "processes": "{type: ProcessPoolEngine, max_workers: 2}",
    "htex": "{type: GlobusComputeEngine, max_workers_per_node: 2}",
}

_EVERY_STRATEGY = """
import contextlib, json, sys
from globus_compute_sdk import Executor
from globus_compute_sdk.serialize import ComputeSerializer, DillDataBase64, JSONData, concretes

def look(given, *, word):
    import sys
    by_source = sys._getframe().f_code.co_filename == "<string>"
    return (word.upper(), type(given).__name__, by_source)

def some():
    return {1, 2}

def double(number):
    return 2 * number

def back(given):
    return given

def told(future):
    value = future.result(60)
    return [type(value).__name__, *value]

def submit(function, *args, by=None, results_by=None, **kwargs):
    # An executor each: they serialize what was submitted later, and keep what they registered.
    executor = executors.enter_context(Executor(endpoint_id=sys.argv[1], serializer=by))
    executor.result_serializers = results_by
    return executor.submit(function, *args, **kwargs)

with contextlib.ExitStack() as executors:
    answers = {
        f"{code.__name__} {data.__name__}": submit(
            look, (1, 2), word="said", by=ComputeSerializer(code(), data())
        )
        for code in concretes.SELECTABLE_CODE_STRATEGIES
        for data in concretes.SELECTABLE_DATA_STRATEGIES
    }
    returned = {
        data.__name__: submit(look, (1, 2), word="said", results_by=[data()])
        for data in concretes.SELECTABLE_DATA_STRATEGIES
    }
    functions = {  # whose source is found, since this file is on the endpoint's machine, too
        code.__name__: submit(back, double, results_by=[code()])
        for code in concretes.SELECTABLE_CODE_STRATEGIES
    }
    refused = submit(some, results_by=["globus_compute_sdk.serialize.JSONData"])
    second = submit(some, results_by=[JSONData, DillDataBase64()])
    answers = {name: told(future) for name, future in answers.items()}
    returned = {name: told(future) for name, future in returned.items()}
    functions = {
        name: str(future.exception(60) or future.result()(1)) for name, future in functions.items()
    }
    refused, second = str(refused.exception(60)), sorted(second.result(60))
print(json.dumps([answers, returned, refused, second, functions]))
"""


@pytest.mark.parametrize("engine", _ENGINES)
def test_every_strategy_of_the_sdk(site: Person, engine: str):
    site.configure("mine", f"engine: {_ENGINES[engine]}\n")
    endpoint_id = site.told("start", "mine").rsplit(" ", 1)[1].strip()

    answers, returned, refused, second, functions = site.research(_EVERY_STRATEGY, endpoint_id)

    codes = [each.__name__ for each in SELECTABLE_CODE_STRATEGIES]
    datas = [each.__name__ for each in SELECTABLE_DATA_STRATEGIES]
    assert len(codes) >= 7 and len(datas) >= 3
    assert answers.keys() == {f"{code} {data}" for code in codes for data in datas}
    for name, (came_as, word, was, by_source) in answers.items():
        code, data = name.split()
        assert (came_as, word) == ("tuple", "SAID"), name  # results: by the default, dill
        assert was == ("tuple" if data == "DillDataBase64" else "list"), name  # JSON has none
        assert by_source == (code != "DillCode"), name
    assert returned.keys() == set(datas)
    for data, (came_as, word, *_) in returned.items():
        assert word == "SAID"
        assert came_as == ("tuple" if data == "DillDataBase64" else "list"), data
    assert "cannot be serialized" in refused and "a set" in refused
    assert second == [1, 2]  # the second choice, where the first cannot
    # The SDK's dill looks for source in the main program, which is not the researcher's here.
    for code in set(codes) - {"DillCodeSource", "PureSourceDill"}:
        assert functions[code] == "2", code


_ALLOWED = """
engine:
  type: GlobusComputeEngine
  allowed_serializers:
    - globus_compute_sdk.serialize.CombinedCode
    - globus_compute_sdk.serialize.JSONData
"""

_TRY_SOME = """
import json, sys
from globus_compute_sdk import Executor
from globus_compute_sdk.serialize import CombinedCode, ComputeSerializer, JSONData

def add(a, b):
    return a + b

told = []
for serializer in (
    ComputeSerializer(),
    ComputeSerializer(CombinedCode()),
    ComputeSerializer(CombinedCode(), JSONData()),
):
    with Executor(endpoint_id=sys.argv[1]) as executor:
        executor.serializer = serializer
        future = executor.submit(add, 1, 2)
        told.append(str(future.exception(60) or future.result()))
print(json.dumps(told))
"""


def test_only_what_is_allowed_is_read(site: Person):
    site.configure("mine", _ALLOWED)
    endpoint_id = site.told("start", "mine").rsplit(" ", 1)[1].strip()
    code, data, value = site.research(_TRY_SOME, endpoint_id)
    for text in (
        "globus_compute_sdk.errors.error_types.DeserializationError: Deserialization failed:",
        "Code serializer DillCode disabled by current configuration.",
        "The current configuration requires the *function* to be serialized with one of the"
        " allowed Code classes:\n",
        "    Allowed serializers: CombinedCode, JSONData",
    ):
        assert text in code
    assert "Data serializer DillDataBase64 disabled by current configuration." in data
    assert "requires the *arguments* to be serialized with one of the allowed Data" in data
    assert value == "3"


def test_a_list_of_one_kind_is_refused_at_start(site: Person):
    site.configure(
        "mine", "engine:\n  allowed_serializers: [globus_compute_sdk.serialize.DillCodeSource]\n"
    )
    done = site.run("start", "mine")
    assert done.returncode == 78
    path = site.endpoints / "mine" / "config.yaml"
    assert done.stderr.startswith(
        f"Error: {path}: engine.allowed_serializers (line 2): Deserialization allowlists must"
        " contain at least one code and one data deserializer/wildcard"
        " (got: ['globus_compute_sdk.serialize.DillCodeSource'])\n"
    )
