"""What holds for all tests: where everything must be installed, nothing may be skipped."""

import os

import pytest

# An ordinary user may have to leave out what only root can try.
NOTHING_MAY_BE_SKIPPED = os.environ.get("CI") == "true" and os.geteuid() == 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    return _refuse_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report):
    if NOTHING_MAY_BE_SKIPPED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI may skip nothing, but: {reason}"
    return report
