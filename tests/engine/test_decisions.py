"""The pure and the small parts: scaling, deadlines, registry, header blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.engine.deadlines import Deadlines
from hearth.engine.headers import BadHeadersError, clean_block
from hearth.engine.scaling import Plan, Policy, Snapshot, back_off_s, decide
from hearth.errors import NotFound
from hearth.sandbox.stub import VirtualTime

POLICY = Policy(max_instances=10, min_instances=0, instance_concurrency=1, idle_ttl_s=60)


@pytest.mark.parametrize(
    ("snapshot", "policy", "plan"),
    [
        (Snapshot(5, 0, 0, proven=True, retry_at=0), POLICY, Plan(5, 0)),
        (Snapshot(5, 2, 2, proven=True, retry_at=0), POLICY, Plan(3, 0)),
        (Snapshot(50, 0, 4, proven=True, retry_at=0), POLICY, Plan(6, 0)),
        (Snapshot(5, 0, 0, proven=False, retry_at=0), POLICY, Plan(1, 0)),
        (Snapshot(5, 1, 1, proven=False, retry_at=0), POLICY, Plan(0, 0)),
        (Snapshot(5, 0, 0, proven=True, retry_at=1001), POLICY, Plan(0, 0)),
        (
            Snapshot(5, 0, 0, proven=True, retry_at=0),
            POLICY._replace(instance_concurrency=4),
            Plan(2, 0),
        ),
        (Snapshot(0, 0, 1, proven=True, retry_at=0), POLICY._replace(min_instances=3), Plan(2, 0)),
        (Snapshot(0, 0, 3, True, 0, (900, 939, 941)), POLICY, Plan(0, 2)),
        (
            Snapshot(0, 0, 3, True, 0, (900, 901, 902)),
            POLICY._replace(min_instances=2),
            Plan(0, 1),
        ),
        (Snapshot(1, 0, 10, True, 0, (900, 901)), POLICY, Plan(0, 0)),
    ],
)
def test_the_plan_covers_the_need_within_the_bounds(snapshot, policy, plan):
    assert decide(snapshot, policy, now=1000) == plan


def test_the_back_off_grows_to_half_a_minute():
    assert [back_off_s(n) for n in (1, 2, 3, 4, 5, 8, 1000)] == [0, 0, 1, 2, 4, 30, 30]


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "advance"]), st.integers(0, 9))))
def test_entries_expire_after_their_time_unless_discarded(events):
    time = VirtualTime()
    expired = []
    deadlines = Deadlines(5, expired.append, clock=time, timers=time)
    due = {}
    for event, n in events:
        if event == "add" and n not in due:
            deadlines.add(n, time.monotonic())
            due[n] = time.monotonic() + 5
        elif event == "discard":
            assert deadlines.discard(n) == (due.pop(n, None) is not None)
        elif event == "advance":
            expected = [m for m, when in due.items() if when <= time.monotonic() + n]
            for m in expected:
                del due[m]
            before = len(expired)
            time.advance(n)
            assert expired[before:] == expected
        assert list(deadlines) == list(due)


def test_a_function_is_found_by_name_and_id_alias_and_number(engine):
    first = engine.deploy("hello", 1)
    second = engine.deploy("hello", 2)
    registry = engine.registry
    assert registry.resolve("hello") is registry.resolve("id-hello") is second
    assert registry.resolve("hello", 1) is registry.resolve("hello", "1") is first
    assert registry.routes["hello"].version is second
    for which in ("nightly", 3, "3", "²"):
        with pytest.raises(NotFound):
            registry.resolve("hello", which)
    registry.remove("id-hello")
    with pytest.raises(NotFound):
        registry.resolve("hello")
    assert registry.functions() == []


def test_a_snapshot_that_was_handed_out_never_changes(engine):
    engine.deploy("a")
    before = engine.registry.routes
    names = set(before)
    engine.deploy("b")
    engine.registry.remove("id-a")
    assert set(before) == names
    with pytest.raises(TypeError):
        before["c"] = before["a"]


@given(st.binary(max_size=200))
def test_no_bytes_make_a_header_block_that_is_more_than_headers(block):
    try:
        clean = clean_block(block + b"\r\n")
    except BadHeadersError:
        return
    for line in clean.split(b"\r\n")[:-1]:
        name = line.partition(b": ")[0]
        assert name
        assert name == name.lower()
        assert not set(line) & {0, 10, 13}
        assert name not in (b"connection", b"content-length", b"transfer-encoding")


def test_many_different_header_blocks_do_not_pile_up():
    from hearth.engine import headers

    for n in range(5000):
        clean_block(b"x: %d\r\n" % n)
    assert len(headers._clean) <= headers._REMEMBERED + 1
