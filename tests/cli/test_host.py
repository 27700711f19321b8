"""Verbs about this host, with a stand-in for what they start."""

import sys
from types import ModuleType
from typing import NamedTuple

import pytest


class Row(NamedTuple):
    mechanism: str
    ok: bool | None
    detail: str
    fix: str


@pytest.fixture
def stand_in(monkeypatch):
    def put(name, **attributes):
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    return put


@pytest.fixture
def started(stand_in):
    """What `up` gave to the node; it ends with exit code 5."""
    given = []
    stand_in("hearth.node", run=lambda settings, warnings: given.append((settings, warnings)) or 5)
    return given


def test_up_gives_the_node_its_settings_and_warnings(hearth, started, tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text("container: {runtime: oci}\ngateway: {port: 1, host: '::1'}")
    monkeypatch.setenv("HEARTH_LOG_LEVEL", "debug")
    options = ["--config", "my.yaml", "--port", 2, "--data-dir", "/somewhere"]
    assert hearth("up", *options).code == 5
    ((settings, warnings),) = started
    assert (settings.gateway.host, settings.gateway.port) == ("::1", 2)
    assert (settings.data_dir, settings.log_level) == ("/somewhere", "debug")
    assert len(warnings) == 1
    assert "container.runtime (my.yaml, line 1)" in warnings[0]


def test_up_reads_hearth_yaml_of_the_current_folder(hearth, started, tmp_path):
    hearth("up")
    (tmp_path / "hearth.yaml").write_text("gateway: {port: 7}")
    hearth("up")
    assert [settings.gateway.port for settings, _ in started] == [8080, 7]


def test_up_reads_the_file_that_hearth_config_names(hearth, started, tmp_path, monkeypatch):
    (tmp_path / "hearth.yaml").write_text("gateway: {port: 7}")
    (tmp_path / "other.yaml").write_text("gateway: {port: 8}")
    monkeypatch.setenv("HEARTH_CONFIG", "other.yaml")
    hearth("up")
    assert [settings.gateway.port for settings, _ in started] == [8]


@pytest.mark.parametrize(("states", "code"), [([True, None], 0), ([True, False], 1)])
def test_doctor_shows_each_mechanism_and_fails_if_one_is_missing(hearth, stand_in, states, code):
    rows = [Row(f"mechanism {i}", ok, "detail", "fix it") for i, ok in enumerate(states)]
    stand_in("hearth.linux.doctor", checks=lambda: rows)
    outcome = hearth("doctor")
    assert outcome.code == code
    assert ("missing" in outcome.out) == (code == 1)
    assert f"{'cannot' if code else 'can'} keep isolation_level strict" in outcome.out
    shown = hearth("doctor", "-o", "json")
    assert (shown.code, shown.json) == (code, [row._asdict() for row in rows])
