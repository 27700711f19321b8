"""The doctor tells the truth: what it calls possible was done, what is taken away it misses."""

from __future__ import annotations

import os

import pytest

from hearth.linux import doctor


def test_every_row_has_a_detail_and_every_failure_a_fix():
    rows = doctor.checks()
    assert {row.mechanism for row in rows} >= {"mount namespace", "seccomp filter", "pidfd"}
    assert all(row.detail for row in rows)
    assert all(row.ok or row.fix for row in rows)


def test_a_mechanism_that_fails_is_reported_with_the_reason():
    def impossible():
        os.mkdir("/proc/nothing")

    row = doctor._try("impossible", impossible, "nothing helps")
    assert (row.ok, row.fix) == (False, "nothing helps")
    assert "/proc/nothing" in row.detail


def test_a_probe_that_is_killed_is_reported_by_its_signal():
    row = doctor._try("suicide", lambda: os.kill(os.getpid(), 9), "")
    assert (row.ok, row.detail) == (False, "ended by SIGKILL")


def test_what_should_be_refused_but_is_possible_is_a_failure():
    with pytest.raises(OSError, match="breathing was possible"):
        doctor._expect(1, lambda: None, "breathing")
