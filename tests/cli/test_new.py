import ast

import pytest

from hearth.cli.functionfile import read_function
from hearth.cli.new import TEMPLATES


def test_a_new_function_is_a_folder_that_can_be_deployed(hearth, tmp_path):
    outcome = hearth("new", "my-fn", "--lang", "python")
    assert outcome.code == 0
    assert "hearth deploy my-fn" in outcome.out
    assert read_function(tmp_path / "my-fn")["name"] == "my-fn"
    (handle,) = ast.parse((tmp_path / "my-fn" / "handler.py").read_text()).body
    assert (handle.name, len(handle.args.args)) == ("handle", 1)
    assert (tmp_path / "my-fn" / "README.md").read_text().startswith("# my-fn\n")


def test_new_fills_an_empty_folder_that_exists(hearth, tmp_path):
    (tmp_path / "my-fn").mkdir()
    assert hearth("new", "my-fn").code == 0


def test_new_never_overwrites(hearth, tmp_path):
    (tmp_path / "my-fn").mkdir()
    (tmp_path / "my-fn" / "handler.py").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("my-fn", "file"):
        outcome = hearth("new", name)
        assert outcome.code == 5
        assert "nothing was changed" in outcome.err
    assert [path.name for path in (tmp_path / "my-fn").iterdir()] == ["handler.py"]


@pytest.mark.parametrize("name", ["My", "1st", "a_b", "-a", "a-", "a" * 64, "..", "a b"])
def test_a_name_that_no_function_can_have_is_refused(hearth, tmp_path, name):
    outcome = hearth("new", "--", name)
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_language_is_refused_with_those_there_are(hearth):
    assert "python" in hearth("new", "a", "--lang", "cobol").err


def test_new_lists_its_languages(hearth):
    assert [row["lang"] for row in hearth("new", "--list", "-o", "json").json] == [*TEMPLATES]
