"""Fuzzing of what parses a client's bytes inside the sandbox, against the standard library."""

from __future__ import annotations

import json
import urllib.parse

from hypothesis import given, settings
from hypothesis import strategies as st

from hearth_runtime import frames
from hearth_runtime.request import BadRequest, Query, Request
from hearth_runtime.response import to_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)
QUERY = st.text(st.sampled_from("ab&&==%%+;éF2c3/ ")).map(str.encode) | st.binary(max_size=60)


def _request(body):
    return Request(
        frames.call_frame(1, 0.0, b"i", b"POST", b"/", b"", b"", body)[frames.HEADER_BYTES :],
        "f",
        1,
    )


@settings(max_examples=2000, deadline=None)
@given(raw=QUERY)
def test_a_query_is_parsed_as_the_standard_library_does(raw):
    ascii_only = urllib.parse.quote_from_bytes(raw, safe="%+&=;/ ")  # it takes no other bytes
    expected = urllib.parse.parse_qsl(ascii_only, keep_blank_values=True, errors="replace")
    query = Query(raw)
    assert {name: query.all(name) for name in query} == {
        name: [value for key, value in expected if key == name] for name, _ in expected
    }
    assert all(query[name] == query.all(name)[0] for name in query)


@settings(max_examples=1000, deadline=None)
@given(value=JSON)
def test_json_survives_both_directions(value):
    assert to_json(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert _request(to_json(value)).json == value
    assert _request(json.dumps(value, indent=1).encode() + b"\n").json == value


@settings(max_examples=3000, deadline=None)
@given(
    body=st.binary(max_size=40)
    | st.text(st.sampled_from('[]{},:"1e.-ntrueNaI \\u')).map(str.encode)
)
def test_any_body_is_json_or_a_bad_request(body):
    try:
        expected = json.loads(body.decode("utf-8"))
    except ValueError:
        expected = BadRequest
    try:
        found = _request(body).json
    except BadRequest:
        found = BadRequest
    assert repr(found) == repr(expected)
