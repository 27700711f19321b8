import pytest

from hearth.cli.ignore import Ignore


@pytest.mark.parametrize(
    ("rule", "path", "left_out"),
    [
        ("a.txt", "a.txt", True),
        ("a.txt", "deep/er/a.txt", True),
        ("/a.txt", "deep/a.txt", False),
        ("*.log", "x/y.log", True),
        ("*.log", "y.log.py", False),
        ("doc/*.md", "doc/a.md", True),
        ("doc/*.md", "doc/sub/a.md", False),
        ("doc/**/a.md", "doc/a.md", True),
        ("doc/**/a.md", "doc/x/y/a.md", True),
        ("**/tmp", "a/b/tmp", True),
        ("tmp/**", "tmp/a/b", True),
        ("?.py", "a.py", True),
        ("?.py", "ab.py", False),
        ("[ab].py", "a.py", True),
        ("[!ab].py", "a.py", False),
        ("a.b", "axb", False),
        ("# a", "# a", False),
        ("", "a", False),
        (r"\#a", "#a", True),
        (r"\!a", "!a", True),
        ("a(b", "a(b", True),
    ],
)
def test_rules_mean_what_they_mean_to_git(rule, path, left_out):
    assert Ignore(rule).leaves_out(path, is_folder=False) is left_out


def test_a_rule_with_a_slash_at_its_end_is_for_folders_only():
    ignore = Ignore("build/")
    assert ignore.leaves_out("x/build", is_folder=True)
    assert not ignore.leaves_out("x/build", is_folder=False)


def test_the_last_rule_that_matches_decides():
    ignore = Ignore("*.py\n!keep.py\n")
    assert ignore.leaves_out("a.py", is_folder=False)
    assert not ignore.leaves_out("keep.py", is_folder=False)
