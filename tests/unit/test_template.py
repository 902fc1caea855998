# SPDX-License-Identifier: Apache-2.0
"""A variable says one value, whatever it holds."""

from typing import Any

import pytest
import yaml

from globus_compute_endpoint.config.template import check_templates, render_user_config
from globus_compute_endpoint.problem import ExitStatus, Problem

NASTY = [
    "plain",
    'a"b',
    "a: b\nevil: true",
    "{{ 7 * 7 }}",
    "'; rm -rf / #",
    "\\u0000",
    "\x00\x07\x7f\x85\u2028\ufeff",
    "😀 ünïcode",
    "*anchor",
    "",
    "null",
]
IDENTITY = {
    "local": {"uname": "alice", "uid": 1001, "gecos": "Alice\nx: y", "dir": "/home/alice"},
    "globus": {"id": "0000"},
}


def render(template: str, schema: Any = None, **options: Any) -> Any:
    return yaml.safe_load(render_user_config(template, schema, options, {"python": {}}, IDENTITY))


def refused(template: str, schema: Any = None, **options: Any) -> str:
    with pytest.raises(Problem) as caught:
        render(template, schema, **options)
    assert caught.value.exit_status is ExitStatus.CONFIGURATION
    return caught.value.message


@pytest.mark.parametrize("value", NASTY)
def test_a_string_stays_one_string(value: str):
    assert render("a: {{ x }}\nb: 1", x=value) == {"a": value, "b": 1}


@pytest.mark.parametrize("key", NASTY)
def test_a_key_stays_one_key(key: str):
    loop = "{% for k, v in x.items() %}\n{{ k }}: {{ v }}{% endfor %}"
    assert render(loop, x={key: "v"}) == {key: "v"}
    keys = "{% for k in x %}\n{{ k }}: {{ x[k] }}{% endfor %}"
    assert render(keys, x={key: "v"}) == {key: "v"}


@pytest.mark.parametrize("value", [*NASTY, 5, 1.5, True, None, [1, "a\nb: c"], {"a\nb": [{}]}])
def test_any_value_can_be_written_whole(value: Any):
    assert render("a: {{ x }}", x=value) == {"a": value}
    assert render("a: {{ x.y }}", x={"y": value}) == {"a": value}


def test_conditions_and_defaults():
    assert render("a: {{ x|default('d') }}") == {"a": "d"}
    assert render("{% if x == '\"test\"' %}a: 1{% endif %}", x="test") == {"a": 1}
    assert render("{% if n > 3 %}a: {{ n }}{% endif %}", n=4) == {"a": 4}


def test_a_missing_variable_is_named():
    assert "'ACCOUNT' is undefined" in refused("account: {{ ACCOUNT }}")


@pytest.mark.parametrize("name", ["_GC", "parent_config", "user_runtime", "mapped_identity"])
def test_reserved_names_are_refused(name: str):
    assert "reserved" in refused("a: 1", **{name: 1})


def test_identities_are_there_and_cannot_break_out():
    text = "a: {{ _GC.mapped_identity.local.uname }}/x\nb: {{ mapped_identity.local.gecos }}"
    assert render(text) == {"a": "alice/x", "b": "Alice\nx: y"}


@pytest.mark.parametrize("value", ["a b", "$(reboot)", "`x`", "it's", "-n", ""])
def test_shell_escape_makes_one_word(value: str):
    import shlex

    script = render("worker_init: |\n  echo {{ x|shell_escape }}\n", x=value)["worker_init"]
    assert shlex.split(script) == ["echo", value]


def test_shell_escape_refuses_line_breaks():
    assert "line break" in refused("a: |\n  echo {{ x|shell_escape }}", x="a\nb: c")


def test_the_schema_names_the_path():
    schema = {"type": "object", "properties": {"n": {"type": "object", "required": ["m"]}}}
    assert "user_endpoint_config.n: 'm' is a required property" in refused("a: 1", schema, n={})
    assert render("a: {{ n.m }}", schema, n={"m": 2}) == {"a": 2}


@pytest.mark.parametrize("value", ["a\n", "a\nb", "\na", "a\n\n"])
def test_a_pattern_with_both_its_ends_leaves_out_line_breaks(value: str):
    schema = {"properties": {"x": {"pattern": "^[a-z]+$"}}}
    assert "does not match" in refused("a: {{ x }}", schema, x=value)
    assert render("a: {{ x }}", schema, x="a") == {"a": "a"}
    schema["properties"]["x"]["pattern"] = r"^a\s"
    assert render("a: {{ x }}", schema, x="a\n") == {"a": "a\n"}


def test_a_schema_fetches_nothing():
    refused("a: 1", {"$ref": "http://127.0.0.1:9/schema.json"}, n=1)


@pytest.mark.parametrize(
    "template",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ x.append(1) }}",
    ],
)
def test_the_sandbox_holds(template: str):
    refused(template, x=[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: {{ oops", "line 1"), ("a: 1\nb: {% if %}", "line 2"), ("{{ a | no_such }}", "no_such")],
)
def test_a_template_is_checked_without_values(text: str, said: str):
    check_templates({"good.j2": "{{ a | shell_escape }}{% include 'other.j2' %}"})
    with pytest.raises(Problem, match=said) as refused:
        check_templates({"bad.j2": text})
    assert refused.value.message.startswith("bad.j2")
