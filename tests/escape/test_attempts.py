"""Every attempt is stopped, and succeeds once the wall that stops it is left out."""

from __future__ import annotations

import ast
import os
from importlib import import_module
from pathlib import Path

import pytest
from attacks.attempt import ATTEMPTS
from escape_node import ROOT

import hearth

for module in sorted((Path(__file__).parent / "bundle/attacks").glob("[a-z]*.py")):
    import_module(f"attacks.{module.stem}")

HERE = [a for a in ATTEMPTS.values() if a.machine in (None, os.uname().machine) and a.needs()]
HOLDING = [a for a in HERE if ROOT or not a.weaker]
WEAKER = [a for a in HERE if a.weaker and not ROOT]


def off(attempt):
    return attempt.off if ROOT else attempt.user_off


def name(attempt):
    return attempt.name


@pytest.mark.parametrize("attempt", HOLDING, ids=name)
def test_the_sandbox_stops_the_attempt_to(nodes, planted, attempt):
    outcome = nodes.try_(attempt, planted)
    assert outcome.error is None, outcome.error
    if outcome.end is not None:
        assert attempt.dies
        assert outcome.end.oom
    else:
        assert b'"escaped":false' in outcome.answer.replace(b" ", b""), outcome.answer


@pytest.mark.parametrize("attempt", [a for a in HOLDING if off(a)], ids=name)
def test_without_its_wall_nothing_stops_the_attempt_to(nodes, planted, attempt):
    outcome = nodes.try_(attempt, planted, off(attempt))
    assert outcome.error is None, outcome.error
    assert outcome.end is None
    assert b'"escaped":true' in outcome.answer.replace(b" ", b""), outcome.answer


if WEAKER:

    @pytest.mark.parametrize("attempt", WEAKER, ids=name)
    def test_an_ordinary_users_node_is_weaker_and_cannot_stop_the_attempt_to(
        nodes, planted, attempt
    ):
        outcome = nodes.try_(attempt, planted)
        if attempt.module == "memory" and nodes.limited:  # a control group was delegated
            assert outcome.end is not None
            assert outcome.end.oom
        else:
            assert b'"escaped":true' in outcome.answer.replace(b" ", b""), attempt.weaker


def test_several_walls_are_left_out_only_for_a_reason():
    unexplained = [a.name for a in HERE if len(a.off) > 1 and not a.why]
    assert unexplained == []


def test_no_code_of_the_product_leaves_a_wall_out():
    source = Path(hearth.__file__).parent
    made = [
        call
        for path in source.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "ProcessBackend"
    ]
    assert made
    assert not [
        word.arg for call in made for word in call.keywords if word.arg in (None, "without")
    ]
