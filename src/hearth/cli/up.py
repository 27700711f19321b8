"""`hearth up`: start a node on this host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def up(
    *,
    host: str | None = None,
    port: int | None = None,
    data_dir: str | None = None,
    config: Annotated[str | None, Parameter(env_var="HEARTH_CONFIG")] = None,
) -> int:
    """Start a node and serve until SIGTERM or Ctrl-C.

    Settings come from the file, then the environment (HEARTH_<SECTION>_<KEY>), then these options.

    Args:
        host: address to listen on (default 127.0.0.1).
        port: port to listen on (default 8080; 0: any free one).
        data_dir: where everything that survives a restart is kept (default ./data).
        config: settings file (default: hearth.yaml in this folder, if there is one).
    """
    from hearth.config import load_settings

    if config is None and Path("hearth.yaml").is_file():
        config = "hearth.yaml"
    overrides = {"gateway.host": host, "gateway.port": port, "data_dir": data_dir}
    settings, warnings = load_settings(config, os.environ, overrides)
    from hearth.node import run

    return int(run(settings, warnings) or 0)
