import json
from pathlib import Path

import pytest

from hearth.build.declaration import check
from hearth.cli.functionfile import read_function
from hearth.cli.pack import pack

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/function.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_every_example_can_be_packed_and_says_what_to_expect(file):
    declared = read_function(file.parent)
    assert check(declared) == declared
    assert declared["name"] == file.parent.name
    assert pack(file.parent)
    wanted = json.loads((file.parent / "demo.json").read_text())
    assert set(wanted) == {"request", "expect"}
    assert set(wanted["request"]) <= {"method", "path", "json", "body_base64"}
    assert len(set(wanted["expect"]) & {"json", "text", "body_base64"}) == 1


def test_there_are_examples_of_both_contracts():
    assert {"hello", "greet-script"} <= {file.parent.name for file in EXAMPLES}
