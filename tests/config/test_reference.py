from pathlib import Path

from hearth.cli.reference import reference, updated
from hearth.config import SECTIONS, load_settings

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"


def test_the_reference_in_the_documentation_is_up_to_date():
    text = DOCUMENT.read_text()
    assert text == updated(text), "run `make docs`"


def test_every_key_has_an_explanation_and_a_variable():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    keys = sum(len(section.__struct_fields__) for section in SECTIONS.values()) + 3
    assert len(rows) == keys
    for row in rows:
        _, _key, _default, what, variable, _ = row.replace("\\|", "").split("|")
        assert len(what.strip()) > 10
        assert variable.strip().startswith("`HEARTH_")


def test_the_sample_file_loads_without_a_warning():
    _, warnings = load_settings(str(ROOT / "examples" / "hearth.yaml"), {}, {})
    assert warnings == []


def test_the_sample_file_states_the_defaults():
    settings, _ = load_settings(str(ROOT / "examples" / "hearth.yaml"), {}, {})
    assert settings == load_settings(None, {}, {})[0]
