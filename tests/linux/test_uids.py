"""Two nodes on one host never give their sandboxes the same host uids."""

from __future__ import annotations

import os

import pytest

from hearth.linux import uids

BASE = 1_600_000_000


def test_a_second_claim_gets_other_uids(tmp_path):
    directory = str(tmp_path / "uids")
    first, second = uids.claim(BASE, directory), uids.claim(BASE, directory)
    assert first.first == BASE
    assert second.first == BASE + uids.SLICE
    first.close()
    third = uids.claim(BASE, directory)
    assert third.first == BASE
    second.close()
    third.close()
    assert not os.path.exists(directory)


def test_the_death_of_the_holder_gives_the_slice_back(tmp_path):
    directory = str(tmp_path / "uids")
    pid = os.fork()
    if pid == 0:
        uids.claim(BASE, directory)
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.listdir(directory) == [str(BASE)]  # the file is left, the lock is not
    again = uids.claim(BASE, directory)
    assert again.first == BASE
    again.close()


def test_no_slice_reaches_beyond_the_last_uid(tmp_path):
    with pytest.raises(OSError, match="no free user ids"):
        uids.claim((1 << 32) - uids.SLICE, str(tmp_path / "uids"))
