import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.config import parse_cores, parse_duration, parse_size
from hearth.errors import ConfigError

PARSERS = (parse_duration, parse_size, parse_cores)
NO_AMOUNTS = (
    "",
    "x",
    "-1",
    -1,
    True,
    math.inf,
    math.nan,
    None,
    [],
    "1s1",
    "1e9x",
    10**400,
    "9" * 400,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("1h30m", 5400),
        ("200ms", 0.2),
        ("1.5h", 5400),
        ("7d", 604800),
        (5, 5),
        ("5", 5),
        (0.5, 0.5),
        (" 3s ", 3),
    ],
)
def test_durations_are_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128Mi", 128 << 20),
        ("128MiB", 128 << 20),
        ("10MB", 10_000_000),
        ("1Gi", 1 << 30),
        (42, 42),
        ("42", 42),
        ("64KiB", 65536),
        ("1.5Ki", 1536),
    ],
)
def test_sizes_are_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "cores"), [("100m", 0.1), ("0.5", 0.5), (2, 2), ("2", 2)])
def test_cpu_is_cores(text, cores):
    assert parse_cores(text) == pytest.approx(cores)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "wrong", ["", "x", "-1", -1, True, math.inf, math.nan, None, [], "1s1", "1e9x"]
)
def test_what_is_no_amount_is_refused_with_an_example(parse, wrong):
    with pytest.raises(ConfigError, match=r"write e\.g\."):
        parse(wrong)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(max_size=12))
def test_any_text_is_an_amount_of_at_least_zero_or_refused(parse, text):
    with contextlib.suppress(ConfigError):
        assert 0 <= parse(text) < math.inf
