"""schemathesis over `/openapi.json` of a real node, through its gateway: nothing answers 5xx."""

from __future__ import annotations

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from nodes import running_node
from pace import fewer

EXAMPLES = 20
"""Valid and invalid inputs each, for each operation (fewer where the machine is emulated)."""
HELLO = "def handle(request):\n    return {'path': request.path, 'length': len(request.body)}\n"


@pytest.mark.timeout(400)
def test_no_input_makes_any_route_of_a_real_node_answer_with_a_server_error(tmp_path):
    with running_node(tmp_path / "data") as node:
        node.deploy("hello", HELLO)
        schema = schemathesis.openapi.from_url(f"{node.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert any("/function/" in operation.path for operation in operations)
        for operation in operations:
            try_operation(node, operation)


def try_operation(node, operation):
    @settings(
        max_examples=fewer(EXAMPLES, 3),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        response = case.call(base_url=node.url, timeout=30)
        assert response.status_code < 500, (operation.label, case.as_curl_command(), response.text)

    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        # nothing can be wrong with a request that has neither parameters nor a body
        with contextlib.suppress(Unsatisfiable):
            given(operation.as_strategy(generation_mode=mode))(check)()
