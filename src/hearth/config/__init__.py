"""Settings of a node: `hearth.yaml`, overlaid by `HEARTH_…` variables, checked and typed.

The sections `execution`, `container` and `process` are the system format of the lightweight design
(§4.1) as printed there. Every key can be overridden by the environment: section and key joined by
an underscore, e.g. `HEARTH_EXECUTION_WARM_INSTANCE_TTL=5m`.
"""

from hearth.config.load import SECTIONS, load_settings
from hearth.config.settings import (
    Container,
    Control,
    Execution,
    Gateway,
    Process,
    Queue,
    Retention,
    Settings,
)
from hearth.config.units import Bytes, Cores, Seconds, parse_cores, parse_duration, parse_size
from hearth.config.yamlfile import Mapped, did_you_mean, read_yaml

__all__ = [
    "SECTIONS",
    "Bytes",
    "Container",
    "Control",
    "Cores",
    "Execution",
    "Gateway",
    "Mapped",
    "Process",
    "Queue",
    "Retention",
    "Seconds",
    "Settings",
    "did_you_mean",
    "load_settings",
    "parse_cores",
    "parse_duration",
    "parse_size",
    "read_yaml",
]
