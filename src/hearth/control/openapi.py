"""The route table as an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

import hearth
from hearth.control.routes import Route
from hearth.control.views import ErrorView
from hearth.errors import (
    BadInput,
    Forbidden,
    HearthError,
    StoreError,
    TooManyRequests,
    Unauthenticated,
)

_REF = "#/components/schemas/{name}"
_EVERYWHERE: tuple[type[HearthError], ...] = (HearthError, BadInput, StoreError)
_BEHIND_A_KEY: tuple[type[HearthError], ...] = (Unauthenticated, Forbidden, TooManyRequests)
_RETRY = {
    "Retry-After": {
        "description": "Seconds after which trying again makes sense",
        "schema": {"type": "string"},
    }
}
_ALWAYS = {
    "X-Call-Id": "Id of this request; of the invocation where there is one",
    "X-Start-Time": "When it arrived, in Unix nanoseconds",
    "X-Duration-Seconds": "How long it took here",
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of `routes`."""
    routes = list(routes)
    types: list[Any] = [ErrorView]
    for route in routes:
        used = (route.request, route.response, route.query, *route.other.values())
        types += [kind for kind in used if kind not in (None, bytes)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, by_type, components
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hearth",
            "version": hearth.__version__,
            "description": "Functions as a service: deploy, call, look.",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(route: Route, by_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *_query_parameters(route, components)],
        "responses": _responses(route, by_type),
        "x-access": route.access,
    }
    if route.description:
        operation["description"] = route.description
    if route.access != "open":
        operation["security"] = [{"bearer": []}, {"header": []}, {}]
    if route.request is bytes:
        operation["requestBody"] = {"content": {"*/*": {}}}
    elif route.request is not None:
        schema = by_type[repr(route.request)]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def operation_id(route: Route) -> str:
    """Return a stable name, e.g. `get_functions_ref`."""
    words = route.path.replace("{", "").replace("}", "").replace("-", "_").strip("/").split("/")
    return "_".join((route.method.lower(), *words)).replace(".", "_")


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in names
    ]


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = components[route.query.__name__]
    parameters = []
    for name, kind in schema["properties"].items():
        found = {key: value for key, value in kind.items() if key != "description"}
        one_of = [option for option in found.pop("anyOf", []) if option.get("type") != "null"]
        found |= one_of[0] if len(one_of) == 1 else {}
        if "enum" in found:
            found["enum"] = [value for value in found["enum"] if value is not None]
        if found.get("default", 0) is None:
            del found["default"]
        parameters.append({"name": name, "in": "query", "required": False, "schema": found})
    return parameters


def _responses(route: Route, by_type: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in route.statuses:
        content: dict[str, Any] = {media: {} for media in route.media}
        shape = route.other.get(status, route.response)
        if shape is not None:
            content = {"application/json": {"schema": by_type[repr(shape)]}}
        responses[str(status)] = {"description": _GOOD.get(status, "Done"), "content": content}
    common = _EVERYWHERE + (_BEHIND_A_KEY if route.access != "open" else ())
    by_status: dict[int, list[type[HearthError]]] = {}
    for error in (*route.errors, *common):
        if error not in by_status.setdefault(error.status, []):
            by_status[error.status].append(error)
    for status, errors in sorted(by_status.items()):
        _add_error(responses, status, errors, by_type[repr(ErrorView)])
    for response in responses.values():
        response.setdefault("headers", {}).update(_headers())
    return responses


_GOOD = {
    200: "Done",
    201: "Made",
    202: "Accepted: it is on disk and will run",
    409: "The invocation was cancelled",
    502: "The function failed",
    503: "Not now",
    504: "The function did not answer in time",
}


def _add_error(
    responses: dict[str, Any], status: int, errors: list[type[HearthError]], schema: Any
) -> None:
    text = "; ".join(
        f"`{error.type}`: {(error.__doc__ or '').splitlines()[0].rstrip('.')}" for error in errors
    )
    present = responses.setdefault(str(status), {"description": text, "content": {}})
    if present["description"] != text:
        present["description"] += f"; or {text}"
    content = present["content"].setdefault("application/json", {})
    old = content.get("schema")
    content["schema"] = {"anyOf": [old, schema]} if old else schema
    if status in (429, 503):
        present["headers"] = dict(_RETRY)


def _headers() -> dict[str, Any]:
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _ALWAYS.items()
    }
