"""`hearth doctor`: what this host can enforce, tried for real."""

from __future__ import annotations

from hearth.cli.options import Output
from hearth.cli.progress import Progress
from hearth.cli.render import show_json, show_table


def doctor(*, output: Output = "table") -> int:
    """Try each isolation mechanism on this host; exit code 1 if `strict` cannot be kept.

    Args:
        output: `json` prints the rows in a stable form.
    """
    from hearth.linux.doctor import checks

    with Progress() as progress:
        progress.phase("trying each mechanism")
        rows = [(row.mechanism, row.ok, row.detail, row.fix) for row in checks()]
    lacking = any(ok is False for _, ok, _, _ in rows)
    if output == "json":
        names = ("mechanism", "ok", "detail", "fix")
        show_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        states = {True: "ok", False: "missing", None: "not needed"}
        shown = [(name, states[ok], detail, fix) for name, ok, detail, fix in rows]
        show_table(("MECHANISM", "STATE", "DETAIL", "FIX"), shown)
        print(f"\nThis host {'cannot' if lacking else 'can'} keep isolation_level strict.")
    return 1 if lacking else 0
