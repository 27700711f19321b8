import pytest

from hearth.config import Settings, load_settings
from hearth.errors import ConfigError

PRINTED = """\
# System-level configuration
execution:
  default_mode: "process"  # or "container"
  max_concurrent_functions: 1000
  cold_start_timeout: "30s"
  warm_instance_ttl: "10m"

container:
  runtime: "docker"  # or "containerd"
  base_image: "python:3.11-slim"
  memory_limit: "128Mi"
  cpu_limit: "100m"

process:
  isolation_level: "strict"  # or "lightweight"
  namespace_types: ["pid", "mount", "user"]
  memory_limit: "128Mi"
  cpu_limit: "100m"
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text=None, environ=None, **overrides):
        path = None
        if text is not None:
            path = tmp_path / "hearth.yaml"
            path.write_text(text)
        dotted = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_settings(path and str(path), environ or {}, dotted)

    return from_text


@pytest.fixture
def refusal(load):
    def of(text=None, environ=None):
        with pytest.raises(ConfigError) as caught:
            load(text, environ)
        return caught.value.message

    return of


def test_nothing_given_is_the_defaults_without_a_warning(load):
    assert load() == (Settings(), [])


def test_an_empty_file_and_an_empty_section_are_the_defaults(load):
    assert load("") == (Settings(), [])
    assert load("execution:\n  # all commented out\n") == (Settings(), [])


def test_the_sample_of_the_specification_loads_as_printed(load):
    settings, _ = load(PRINTED)
    assert settings.execution.default_mode == "process"
    assert settings.execution.max_concurrent_functions == 1000
    assert settings.execution.cold_start_timeout == 30
    assert settings.execution.warm_instance_ttl == 600
    assert settings.container.runtime == "docker"
    assert settings.container.base_image == "python:3.11-slim"
    assert settings.process.isolation_level == "strict"
    assert settings.process.namespace_types == ("pid", "mount", "user")
    assert settings.process.memory_limit == settings.container.memory_limit == 128 << 20
    assert settings.process.cpu_limit == settings.container.cpu_limit == pytest.approx(0.1)


def test_each_container_key_that_is_set_is_named_in_a_warning(load):
    _, warnings = load(PRINTED)
    named = [warning.split(" ")[0] for warning in warnings]
    assert named == [
        f"container.{key}" for key in ("runtime", "base_image", "memory_limit", "cpu_limit")
    ]
    assert all("no effect yet" in warning and "line" in warning for warning in warnings)


def test_the_environment_beats_the_file_and_the_command_line_beats_both(load):
    environ = {"HEARTH_GATEWAY_PORT": "2"}
    text = "gateway: {port: 1, host: '::1'}"
    assert load(text)[0].gateway.port == 1
    assert load(text, environ)[0].gateway.port == 2
    settings, _ = load(text, environ, gateway__port=3, gateway__host=None)
    assert (settings.gateway.port, settings.gateway.host) == (3, "::1")


def _samples():
    for name, variable in (
        ("execution.default_mode", "auto"),
        ("execution.max_concurrent_functions", "7"),
        ("container.cpu_limit", "50m"),
        ("process.namespace_types", "pid, ipc"),
        ("process.cpu_limit", "none"),
        ("gateway.rate_limit", "2.5"),
        ("retention.max_bytes", "2Gi"),
        ("data_dir", "/srv/hearth"),
        ("log_level", "debug"),
    ):
        yield pytest.param(name, variable, id=name)


@pytest.mark.parametrize(("key", "value"), list(_samples()))
def test_a_variable_sets_its_key(load, key, value):
    settings, _ = load(environ={f"HEARTH_{key.replace('.', '_').upper()}": value})
    found = settings
    for part in key.split("."):
        found = getattr(found, part)
    expected = {
        "execution.max_concurrent_functions": 7,
        "container.cpu_limit": 0.05,
        "process.namespace_types": ("pid", "ipc"),
        "process.cpu_limit": None,
        "gateway.rate_limit": 2.5,
        "retention.max_bytes": 2 << 30,
    }
    assert found == expected.get(key, value)


def test_an_empty_variable_counts_as_unset(load):
    assert load(environ={"HEARTH_GATEWAY_PORT": "", "WORKER_USE_CONTAINER": ""})[0] == Settings()


@pytest.mark.parametrize(
    ("use_container", "mode"), [("true", "container"), ("false", "process"), ("1", "container")]
)
def test_worker_use_container_beats_file_and_default_mode(load, use_container, mode):
    environ = {"WORKER_USE_CONTAINER": use_container, "HEARTH_EXECUTION_DEFAULT_MODE": "auto"}
    settings, warnings = load("execution: {default_mode: auto}", environ)
    assert settings.execution.default_mode == mode
    assert any("WORKER_USE_CONTAINER" in warning for warning in warnings) == (mode == "container")


def test_without_worker_use_container_the_default_mode_decides(load):
    settings, warnings = load("execution: {default_mode: auto}")
    assert settings.execution.default_mode == "auto"
    assert len(warnings) == 1


def test_namespace_types_are_a_floor_only_under_strict(load):
    text = "process: {namespace_types: [pid], isolation_level: "
    assert load(text + "strict}")[1] == []
    (warning,) = load(text + "lightweight}")[1]
    assert "process.namespace_types" in warning


def test_worker_work_dir_beats_the_file(load):
    environ = {"WORKER_WORK_DIR": "./storage/work"}
    assert load("work_dir: /elsewhere", environ)[0].work_dir == "./storage/work"


def test_a_variable_that_a_cluster_invents_is_only_warned_about(load):
    _, warnings = load(environ={"HEARTH_SERVICE_HOST": "10.0.0.1"})
    assert len(warnings) == 1
    assert "HEARTH_SERVICE_HOST" in warnings[0]


def test_the_command_lines_own_variables_are_no_settings(load):
    environ = {"HEARTH_URL": "x", "HEARTH_KEY": "y", "HEARTH_CONFIG": "z", "HEARTH_TEST_SLOW": "1"}
    assert load(environ=environ) == (Settings(), [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "execution:\n  warm_instance_tll: 5m",
            ["line 2", "warm_instance_ttl?"],
        ),
        ("\nexecutoin:\n  x: 1", ["executoin", "line 2", "did you mean execution?"]),
        ("gateway:\n  port: eighty", ["gateway.port", "line 2", "'eighty'", "whole number"]),
        ("gateway: {port: 70000}", ["gateway.port", "65535"]),
        ("gateway: {port: true}", ["gateway.port", "True", "whole number"]),
        ("gateway: {max_body: -5}", ["gateway.max_body", "-5", "'128Mi'"]),
        ("gateway: {max_body: 0}", ["gateway.max_body", "above zero"]),
        ("execution: {cold_start_timeout: soon}", ["cold_start_timeout", "'soon'", "'30s'"]),
        ("execution: {cold_start_timeout: 22:30}", ["'22:30'", "'30s'"]),
        ("execution: {cold_start_timeout: .inf}", ["cold_start_timeout", "'30s'"]),
        ("execution: {default_mode: fast}", ["'fast'", "process, container, auto"]),
        ("execution: {max_concurrent_functions: 010}", ["'010'", "whole number"]),
        ("execution: {max_concurrent_functions: 0}", ["max_concurrent_functions", ">= 1"]),
        ("process: {namespace_types: [pid, net]}", ["namespace_types", "network"]),
        ("process: {cpu_limit: lots}", ["process.cpu_limit", "'lots'", "'100m'"]),
        ("container: {base_image: 3.10}", ["container.base_image", "3.1", "quotes"]),
        ("log_level: no", ["log_level", "'no'", "debug, info, warning, error"]),
        ("execution: 5", ["execution", "line 1", "section"]),
        ("a: 1\na: 2", ["line 2", "a was given already in line 1"]),
        ("gateway: {port: 1, port: 2}", ["port was given already"]),
        ("- 1", ["key: value"]),
        ("on: 1", ["unknown key on"]),
        ("1: 1", ["must be text"]),
        ("a: [", ["line", "not valid YAML"]),
        ("a: !!python/object/apply:os.system [echo]", ["not valid YAML"]),
        ("a: &a [*a]", ["not valid YAML"]),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_place_and_the_fix(refusal, text, said):
    message = refusal(text)
    assert "hearth.yaml" in message
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HEARTH_GATEWAY_PROT": "1"}, ["HEARTH_GATEWAY_PROT", "HEARTH_GATEWAY_PORT?"]),
        ({"HEARTH_GATEWAY_PORT": "tcp://10.0.0.1:80"}, ["gateway.port", "HEARTH_GATEWAY_PORT"]),
        ({"WORKER_USE_CONTAINER": "maybe"}, ["WORKER_USE_CONTAINER", "true or false"]),
        ({"HEARTH_PROCESS_SPARES": "-1"}, ["process.spares", ">= 0"]),
    ],
)
def test_what_is_wrong_in_a_variable_is_named(refusal, environ, said):
    message = refusal(environ=environ)
    for words in said:
        assert words in message


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: No such file"):
        load_settings(str(tmp_path / "gone.yaml"), {}, {})


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_settings(str(tmp_path / "x.yaml"), {}, {})
