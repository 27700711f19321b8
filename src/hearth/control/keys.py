"""`/keys`: who may call."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from hearth.control.call import Call, answer
from hearth.control.routes import Route
from hearth.control.views import KeyList, KeyRequest, NewKey, Removed, key_view
from hearth.errors import BadInput, Conflict, NotFound, PayloadTooLarge
from hearth.model import Key

_changing = asyncio.Lock()
"""Two removals at once must not take the last admin key together."""


async def create(call: Call) -> Response:
    """Make a key and show its secret, this once."""
    wanted = await call.read(KeyRequest)
    async with _changing:
        if not await _admins(call) and "admin" not in wanted.scopes:
            raise BadInput(
                "the first key needs scope admin: once a key exists, every caller needs one",
                path="$.scopes",
            )
        key, secret = call.parts.keys.issue(
            wanted.name, tuple(dict.fromkeys(wanted.scopes)), call.parts.clock
        )
        call.target = key.id
        await call.parts.store.save_key(key)
        call.parts.keys.add(key)
    new = NewKey(
        id=key.id, name=key.name, scopes=key.scopes, created_at=key.created_at, secret=secret
    )
    return answer(new, 201)


async def index(call: Call) -> Response:
    """List keys without their secrets."""
    keys = await call.parts.store.load_keys()
    keys.sort(key=lambda key: (key.created_at, key.id))
    return answer(KeyList(keys=[key_view(key) for key in keys]))


async def remove(call: Call) -> Response:
    """Remove a key; it stops working at once."""
    key_id = call.ref("id")
    async with _changing:
        keys = await call.parts.store.load_keys()
        key = next((key for key in keys if key.id == key_id), None)
        if key is None:
            raise NotFound(f"there is no key {key_id!r}")
        _check_not_last(call, key, keys)
        await call.parts.store.delete_key(key_id)
        call.parts.keys.remove(key_id)
    return answer(Removed(id=key.id, name=key.name))


def _check_not_last(call: Call, key: Key, keys: list[Key]) -> None:
    """Keep the door from falling open or shut for good.

    Without any key everybody may do everything, so the last one stays while other machines can
    reach this node; and the last admin key stays while others exist, or nobody could manage them.
    """
    others = [other for other in keys if other.id != key.id]
    if "admin" not in key.scopes or any("admin" in other.scopes for other in others):
        return
    if others:
        raise Conflict("it is the last key with scope admin; remove the other keys first")
    if not call.parts.loopback_only:
        raise Conflict(
            "it is the last key with scope admin, and this node can be reached from other machines"
        )


async def _admins(call: Call) -> list[Key]:
    return [key for key in await call.parts.store.load_keys() if "admin" in key.scopes]


ROUTES = (
    Route(
        method="POST",
        path="/keys",
        summary="Make an API key",
        description="The secret is shown in this answer and never again.",
        handler=create,
        action="key.create",
        request=KeyRequest,
        response=NewKey,
        statuses=(201,),
        errors=(BadInput, PayloadTooLarge),
        tag="keys",
    ),
    Route(
        method="GET",
        path="/keys",
        summary="List API keys",
        handler=index,
        response=KeyList,
        tag="keys",
    ),
    Route(
        method="DELETE",
        path="/keys/{id}",
        summary="Remove an API key",
        handler=remove,
        action="key.remove",
        response=Removed,
        errors=(NotFound, Conflict),
        tag="keys",
    ),
)
