"""`hearth new`: a small folder that can be deployed as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hearth.cli.options import Output
from hearth.cli.render import show_json, show_table
from hearth.errors import BadInput, Conflict

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1035 label: what a function may be called."""

_PYTHON = {
    "handler.py": '''\
def handle(request):
    """Answer one call; what is returned is sent as JSON, what is printed is found in the logs."""
    name = request.query.get("name", "World")
    print("greeting", name)
    return {"message": f"Hello, {name}!"}
''',
    "function.yaml": """\
function:
  name: "{name}"
  runtime: "python"
  timeout: "30s"
  memory: "128Mi"
""",
    "README.md": """\
# {name}

    hearth deploy .
    hearth invoke {name} --path '/?name=you'
    hearth logs {name}
""",
}
TEMPLATES = {"python": ("handle(request) in handler.py, called warm", _PYTHON)}


def new(
    name: str | None = None,
    /,
    *,
    lang: str = "python",
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    output: Output = "table",
) -> None:
    """Make the folder NAME with a function that works.

    Args:
        name: of the function and of its folder; the folder may be given with a path before it.
        lang: the language to start in.
        list_: only list the languages.
        output: `json` prints what was made in a stable form.
    """
    if list_:
        _list(output)
        return
    if name is None:
        raise BadInput("name the function: hearth new NAME")
    if lang not in TEMPLATES:
        raise BadInput(f"there is no template for {lang!r}; there is: {', '.join(TEMPLATES)}")
    folder = Path(name)
    if not NAME.fullmatch(folder.name):
        raise BadInput(
            f"{folder.name!r} cannot be a function's name: use a-z, 0-9 and - (at most 63)"
        )
    _write(folder, TEMPLATES[lang][1])
    if output == "json":
        show_json({"name": folder.name, "folder": str(folder), "files": sorted(_PYTHON)})
        return
    print(f"made {folder}/ with {', '.join(_PYTHON)}")
    print(f"next: hearth deploy {folder}")


def _list(output: Output) -> None:
    rows = [(lang, what) for lang, (what, _) in TEMPLATES.items()]
    if output == "json":
        show_json([{"lang": lang, "description": what} for lang, what in rows])
        return
    show_table(("LANG", "WHAT IT IS"), rows)


def _write(folder: Path, files: dict[str, str]) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists and is not an empty folder; nothing was changed")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        with (folder / file).open("x", encoding="utf-8") as out:
            out.write(text.replace("{name}", folder.name) if file != "handler.py" else text)
