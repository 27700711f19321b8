"""`/docs`: the OpenAPI document as one page that needs nothing else, not even JavaScript."""

from __future__ import annotations

from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

_STYLE = """
:root { --paper:#fff; --ink:#1d1d1f; --soft:#6b6b70; --line:#e4e4e7; --shade:#f6f6f7; --hot:#c2410c;
  --get:#0369a1; --post:#15803d; --put:#a16207; --delete:#b91c1c }
@media (prefers-color-scheme: dark) { :root { --paper:#161618; --ink:#ececee; --soft:#9a9aa2;
  --line:#2e2e33; --shade:#1f1f23; --hot:#fb923c; --get:#7dd3fc; --post:#86efac; --put:#fde047;
  --delete:#fca5a5 } }
* { box-sizing:border-box }
html { scroll-behavior:smooth }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.55 system-ui,sans-serif }
main { max-width:60rem; margin:0 auto; padding:2rem 1.25rem 6rem }
h1 { font-size:1.9rem; margin:0 } h1 span { color:var(--hot) }
h2 { margin:3rem 0 .5rem; text-transform:capitalize; border-bottom:1px solid var(--line) }
p { margin:.4rem 0 } .soft { color:var(--soft) }
nav { columns:2 22rem; margin:1.5rem 0; padding:1rem; background:var(--shade); border-radius:.6rem }
nav a { display:block; color:inherit; text-decoration:none; padding:.1rem 0 }
nav a:hover { text-decoration:underline }
code,pre,b.m { font-family:ui-monospace,monospace; font-size:.88em }
b.m { display:inline-block; min-width:4.6em } .get{color:var(--get)} .post{color:var(--post)}
.put,.patch{color:var(--put)} .delete{color:var(--delete)} .head,.options{color:var(--soft)}
details { border:1px solid var(--line); border-radius:.6rem; margin:.6rem 0; overflow:hidden }
summary { cursor:pointer; padding:.65rem 1rem; background:var(--shade) }
summary .soft { float:right } details>div { padding:.6rem 1rem 1rem; overflow-x:auto }
h4 { margin:1rem 0 .3rem } table { border-collapse:collapse; width:100% }
td,th { text-align:left; vertical-align:top; padding:.3rem .8rem .3rem 0;
  border-bottom:1px solid var(--line); font-weight:normal } th { color:var(--soft) }
pre { background:var(--shade); padding:.7rem 1rem; border-radius:.5rem; overflow-x:auto; margin:0 }
"""


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = document["components"]["schemas"]
    sections = "".join(
        _section(tag["name"], [op for op in operations if tag["name"] in op[2]["tags"]], schemas)
        for tag in document["tags"]
    )
    links = "".join(
        f'<a href="#{escape(operation["operationId"])}">{_method(method)}'
        f"<code>{escape(path)}</code></a>"
        for method, path, operation in operations
    )
    info = document["info"]
    shapes = "".join(_shape(name, schema) for name, schema in sorted(schemas.items()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Hearth API</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>"
        f"<h1><span>Hearth</span> API</h1><p class=soft>Version {escape(info['version'])}. "
        f"{escape(info['description'])} The same as a document: "
        '<a href="/openapi.json"><code>/openapi.json</code></a>.</p>'
        f"<nav>{links}</nav>{sections}<h2>Shapes</h2>{shapes}</main></body></html>"
    )


def _section(
    tag: str, operations: list[tuple[str, str, dict[str, Any]]], schemas: dict[str, Any]
) -> str:
    entries = "".join(_entry(method, path, operation) for method, path, operation in operations)
    return f"<h2>{escape(tag)}</h2>{entries}"


def _entry(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{_prose(operation.get('description', ''))}</p>"]
    if operation["parameters"]:
        rows = "".join(
            f"<tr><td><code>{escape(one['name'])}</code><td>{one['in']}<td>{_kind(one['schema'])}"
            for one in operation["parameters"]
        )
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    body = operation.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        parts.append(
            f"<h4>Body</h4><p><code>{escape(media)}</code> {_kind(content.get('schema', {}))}</p>"
        )
    rows = "".join(
        f"<tr><td><b>{status}</b><td>{_prose(answer['description'])}<td>{_contents(answer)}"
        for status, answer in sorted(operation["responses"].items())
    )
    parts.append(f"<h4>Answers</h4><table>{rows}</table><h4>Try</h4>{_example(method, path, body)}")
    access = {"open": "no key needed"}.get(operation["x-access"], f"scope {operation['x-access']}")
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>{_method(method)}'
        f"<code>{escape(path)}</code> &nbsp;{escape(operation['summary'])}"
        f"<span class=soft>{escape(access)}</span></summary><div>{''.join(parts)}</div></details>"
    )


def _example(method: str, path: str, body: dict[str, Any]) -> str:
    flags = "" if method == "get" else f" -X {method.upper()}"
    if "application/json" in body:
        flags += " -H 'Content-Type: application/json' -d @body.json"
    return f"<pre>curl{escape(flags)} http://localhost:8080{escape(path)}</pre>"


def _contents(answer: dict[str, Any]) -> str:
    return "<br>".join(
        _kind(content["schema"]) if "schema" in content else f"<code>{escape(media)}</code>"
        for media, content in answer.get("content", {}).items()
    )


def _shape(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code>{' *' if key in required else ''}"
        f"<td>{_kind(kind)}<td>{_prose(kind.get('description', ''))}"
        for key, kind in schema.get("properties", {}).items()
    )
    return (
        f'<details id="{escape(name)}"><summary><b>{escape(name)}</b> '
        f"{_prose(schema.get('description', ''))}</summary>"
        f"<div><table>{rows}</table></div></details>"
    )


def _kind(schema: dict[str, Any]) -> str:
    """Return a short reading of a schema, e.g. `text or null`."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_kind(schema.get('items') or {})}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(schema['additionalProperties'])}"
    name = {"string": "text", "integer": "integer", "number": "number"}.get(kind, kind)
    bounds = "".join(
        f" {sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"))
        if key in schema
    )
    return f"{escape(str(name))}{escape(bounds)}"


def _method(method: str) -> str:
    return f'<b class="m {method}">{method.upper()}</b>'


def _prose(text: str) -> str:
    """Escape, and set what is between backticks as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))
