"""Whatever a client sends, the answer is one that the document promises, never a 5xx of ours."""

import contextlib
import json
from urllib.parse import unquote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks as openapi_checks

from hearth.control import openapi
from hearth.control.app import table

EXAMPLES = 25
"""Inputs for each of the operations in one run."""
DOCUMENT = openapi.document(route for route in table() if route.handler is not None)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
# 503 while not ready, 504 and 502 of a function's own making are promised answers
EXPECTED_5XX = {("POST", "/invoke"): {502, 503, 504}, ("GET", "/readyz"): {503}}


def _send(node, case):
    given = case.as_transport_kwargs(base_url="http://127.0.0.1")
    prepared = requests.Request(**given).prepare()
    body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    headers = {k: str(v) for k, v in prepared.headers.items()}
    path, mark, query = prepared.path_url.partition("?")
    answer = node(
        prepared.method, unquote(path) + mark + query, content=body or b"", headers=headers
    )
    return Response(
        status_code=answer.status,
        headers={k: [v] for k, v in answer.headers.items()},
        content=answer.body,
        request=prepared,
        elapsed=0.0,
        verify=False,
    )


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_answer_is_one_that_the_document_promises(make_node, operation):
    node = make_node()
    node.deploy()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        response = _send(node, case)
        key = (operation.method.upper(), operation.path)
        if response.status_code in EXPECTED_5XX.get(key, ()):
            json.loads(response.content)
            return
        case.validate_response(response, checks=CHECKS)

    for mode in (
        schemathesis.GenerationMode.POSITIVE,
        schemathesis.GenerationMode.NEGATIVE,
    ):
        # nothing can be wrong with a request that has neither parameters nor a body
        with contextlib.suppress(Unsatisfiable):
            given(operation.as_strategy(generation_mode=mode))(check)()
