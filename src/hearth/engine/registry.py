"""What is deployed, in memory: one immutable snapshot, swapped whole, so that a call never waits.

The snapshot is the truth for the request path; the store is the truth across restarts. Whoever
deploys writes the store first and then installs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from hearth.errors import NotFound
from hearth.model import Function, Version

LATEST = "latest"


class Entry(msgspec.Struct, frozen=True, eq=False):
    """One function in the snapshot."""

    function: Function
    version: Version
    """What `latest` names: the version that a plain call runs."""
    versions: Mapping[int, Version]


class Registry:
    """Finds versions by function name or id.

    `routes` maps names and ids to entries. Read it anew for every request: a deploy replaces the
    mapping and never changes one that is handed out, so threads may walk it too.
    """

    def __init__(self, loaded: Iterable[tuple[Function, list[Version]]] = ()) -> None:
        """Begin with what `Store.load_functions` returned."""
        self.routes: Mapping[str, Entry] = MappingProxyType({})
        routes: dict[str, Entry] = {}
        for function, versions in loaded:
            _put(routes, function, {version.number: version for version in versions})
        self._swap(routes)

    def resolve(self, name: str, which: str | int = LATEST) -> Version:
        """Return the version that `which` (alias or number) names.

        Raises:
            NotFound: there is no such function, alias or version.
        """
        entry = self.entry(name)
        if which == LATEST:
            return entry.version
        number = entry.function.aliases.get(str(which))
        if number is None and str(which).isdecimal():
            number = int(which)
        version = entry.versions.get(number) if number is not None else None
        if version is None:
            raise NotFound(f"function {name!r} has no version or alias {which!r}")
        return version

    def entry(self, name: str) -> Entry:
        """Return all about one function.

        Raises:
            NotFound: there is no such function.
        """
        entry = self.routes.get(name)
        if entry is None:
            raise NotFound(f"there is no function {name!r}")
        return entry

    def functions(self) -> list[Entry]:
        """Return everything deployed, by name."""
        return sorted(
            {entry.function.id: entry for entry in self.routes.values()}.values(),
            key=lambda entry: entry.function.name,
        )

    def install(self, function: Function, version: Version) -> None:
        """Add a version and take over the function's aliases: the switch of a deploy."""
        routes = dict(self.routes)
        known = routes.get(function.id)
        versions = dict(known.versions) if known else {}
        versions[version.number] = version
        _put(routes, function, versions)
        self._swap(routes)

    def remove(self, function_id: str) -> None:
        """Forget a function; harmless if it is not there."""
        self._swap(
            {key: entry for key, entry in self.routes.items() if entry.function.id != function_id}
        )

    def _swap(self, routes: dict[str, Entry]) -> None:
        self.routes = MappingProxyType(routes)


def _put(routes: dict[str, Entry], function: Function, versions: dict[int, Version]) -> None:
    latest = versions[function.aliases[LATEST]]
    entry = Entry(function, latest, MappingProxyType(versions))
    routes[function.name] = routes[function.id] = entry
