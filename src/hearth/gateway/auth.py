"""Who calls, and whether they may.

A key reads `hearth_<id>_<secret>`; what is stored is the SHA-256 of that whole text, which is also
the key of the table here: a verdict costs one hash and one look-up, and looking up a digest
tells an attacker nothing by its timing. While no key exists everybody is `local`, may do
everything, and the node listens on loopback only (`check_binding`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable

from hearth.errors import ConfigError, Forbidden, Unauthenticated
from hearth.model import Clock, Key, Scope
from hearth.wire.request import Request

_PREFIX = b"hearth_"
_SECRET_BYTES = 32
_ID_BYTES = 6
_SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Identity:
    """Who calls: the id of a key, or `local`."""

    __slots__ = ("admin", "id", "scopes")

    def __init__(self, identity: str, scopes: Iterable[Scope]) -> None:
        """Know what `identity` may do; `admin` includes everything."""
        self.id = identity
        self.scopes = frozenset(scopes)
        self.admin = "admin" in self.scopes

    def __repr__(self) -> str:
        return f"<Identity {self.id}: {', '.join(sorted(self.scopes)) or 'nothing'}>"


LOCAL = Identity("local", ("invoke", "admin"))
NOBODY = Identity("nobody", ())


class Authenticator:
    """The keys of this node, changeable while it runs."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Begin with `keys`."""
        self._by_digest: dict[bytes, Identity] = {}
        self._digests: dict[str, bytes] = {}
        for key in keys:
            self.add(key)

    @property
    def has_keys(self) -> bool:
        """Say whether callers need a key."""
        return bool(self._by_digest)

    @staticmethod
    def issue(name: str, scopes: tuple[Scope, ...], clock: Clock) -> tuple[Key, str]:
        """Make a new key; return what to store, and the text to show once. Does not `add` it."""
        key_id = secrets.token_hex(_ID_BYTES)
        text = f"hearth_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        digest = hashlib.sha256(text.encode()).digest()
        key = Key(
            id=key_id, name=name, scopes=scopes, secret_sha256=digest, created_at=clock.time()
        )
        return key, text

    def add(self, key: Key) -> None:
        """Accept `key` from now on."""
        self.remove(key.id)
        self._by_digest[key.secret_sha256] = Identity(key.id, key.scopes)
        self._digests[key.id] = key.secret_sha256

    def remove(self, key_id: str) -> None:
        """Refuse the key with this id from now on; unknown ids are fine."""
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            del self._by_digest[digest]

    def identify(self, request: Request) -> Identity:
        """Return who sent `request`, and take the key out of it so that no function sees it.

        `X-API-Key` is looked at first, so that a function can have an Authorization of its own.

        Raises:
            Unauthenticated: keys exist, and the request bears none of them.
        """
        if not self._by_digest:
            return LOCAL
        if request.credential is None:
            _take_key(request)
        identity = self._by_digest.get(request.credential)  # type: ignore[arg-type] # taken
        if identity is None:
            raise Unauthenticated
        return identity


def _take_key(request: Request) -> None:
    authorization = request.authorization
    if request.api_key is not None:
        text = request.api_key
        ours_too = authorization is not None and _PREFIX in authorization
    else:
        text = _bearer(authorization)
        ours_too = True
    request.take_key(hashlib.sha256(text).digest(), also_authorization=ours_too)


def _bearer(authorization: bytes | None) -> bytes:
    if authorization is None:
        raise Unauthenticated
    scheme, _, text = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated
    return text.strip()


def authorise(identity: Identity, scope: Scope) -> None:
    """Let pass who has `scope`.

    Raises:
        Forbidden: the key lacks it; names it.
    """
    if not identity.admin and scope not in identity.scopes:
        raise Forbidden(f"this needs an API key with scope `{scope}`")


# --- while no key exists -----------------------------------------------------------------------


def check_binding(host: str, has_keys: bool) -> None:
    """Refuse to serve the world without keys.

    Raises:
        ConfigError: `host` can be reached from elsewhere and no key exists; says what to do.
    """
    if not has_keys and not is_loopback(host):
        raise ConfigError(
            f"gateway.host={host} can be reached from other machines, and no API key exists; "
            "create one first, while it listens on 127.0.0.1: hearth key create NAME --scope admin"
        )


def is_loopback(host: str) -> bool:
    """Say whether `host` (a name or an address) can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_rebinding(request: Request, bound_host: str) -> None:
    """Refuse a request that a browser was tricked into: its Host is not a name of this machine.

    Raises:
        Forbidden: the Host header is foreign (DNS rebinding).
    """
    if request.host is None or request.host_is_local:
        return
    host = _without_port(request.host.decode("latin-1"))
    if host and host != bound_host and not is_loopback(host):
        raise Forbidden(
            "without API keys this node only answers to its loopback names; "
            "use http://127.0.0.1 or create a key"
        )
    request.host_is_local = True


def check_cross_site(request: Request) -> None:
    """Refuse a mutating request that another web site has made a browser send.

    Raises:
        Forbidden: Sec-Fetch-Site or Origin tell so.
    """
    if request.method in _SAFE_METHODS:
        return
    for name, value in request.headers:
        if name == b"sec-fetch-site" and value not in {b"same-origin", b"none"}:
            raise Forbidden("a web page of another site may not do this")
        if name == b"origin" and value.partition(b"://")[2] != (request.host or b""):
            raise Forbidden("a web page of another origin may not do this")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
