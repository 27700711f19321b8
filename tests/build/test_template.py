"""Builds are forks of one process, which comes when it is needed and goes with the node."""

from pathlib import Path

from nodes import started, wait_until

HANDLER = "def handle(request): return {n}\n"


def _template(shop):
    process = shop.builder._template._process
    return process and process.pid


def test_two_builds_are_forks_of_one_process(shop):
    assert _template(shop) is None
    first = shop.build(HANDLER.format(n=1))
    pid = _template(shop)
    second = shop.build(HANDLER.format(n=2))
    assert pid == _template(shop)
    assert first.artifact != second.artifact


def test_a_build_works_after_the_process_was_killed(shop):
    shop.build(HANDLER.format(n=1))
    process = shop.builder._template._process
    process.kill()
    process.wait()
    assert shop.build(HANDLER.format(n=2)).handler == "handle"
    assert _template(shop) != process.pid


def test_no_build_is_left_unreaped_and_no_descriptor_open(shop):
    shop.build(HANDLER.format(n=0))
    pid = _template(shop)
    before = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    for n in range(1, 10):
        shop.build(HANDLER.format(n=n))
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: not children.read_text().split(), "every build is gone")
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) == before


def test_the_process_ends_with_its_builder(shop):
    shop.build(HANDLER.format(n=1))
    pid = _template(shop)
    since = started(pid)
    shop.builder.close()
    assert not Path(f"/proc/{pid}").exists() or started(pid) != since
