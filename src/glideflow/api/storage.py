# SPDX-License-Identifier: Apache-2.0
"""Routes of the embedded storage and of the sandboxes."""

import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse

from glideflow.api.authentication import Anyone, ContextOf, User
from glideflow.api.context import Context
from glideflow.api.pilots import require_own_attempt
from glideflow.api.problems import problem
from glideflow.domain.identifiers import AttemptId, PilotId
from glideflow.domain.identity import Identity
from glideflow.errors import NotAllowed
from glideflow.services.storage import Incoming, Limit, Storage, StoredObject, sandbox_path
from glideflow.store import files

router = APIRouter(tags=["storage"])

_BLOCK = 1 << 20
_CHECKSUM = "x-checksum-sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OWN_OUTPUT = re.compile(r"tasks/[0-9]{1,18}/([0-9]{1,18})/.+")
_OWN_INPUT = re.compile(r"inputs/[0-9a-f]{64}/[^/]+")


async def _receive(request: Request, storage: Storage, path: str, sha256: str | None, limit: Limit) -> StoredObject:
    """Write the request's body to an object.

    Raises:
        TooLarge: It is larger than the limit, by its announced length or by what came; nothing is stored.
        ChecksumMismatch: Something else than announced came; nothing is stored.
    """
    limit.check(path, int(request.headers.get("content-length", 0)))
    with await run_in_threadpool(storage.receive, path, limit) as incoming:
        block = bytearray()
        async for part in request.stream():
            block += part
            if len(block) >= _BLOCK:
                await run_in_threadpool(incoming.write, bytes(block))
                block.clear()
        return await run_in_threadpool(_complete, incoming, bytes(block), sha256)


def _complete(incoming: Incoming, block: bytes, sha256: str | None) -> StoredObject:
    incoming.write(block)
    return incoming.complete(sha256)


def _authorise_write(context: Context, who: Identity | PilotId, path: str) -> None:
    """Let pilots write outputs of their own attempts, and users inputs.

    Raises:
        NotAllowed: Anything else.
    """
    if isinstance(who, Identity):
        if not _OWN_INPUT.fullmatch(path):
            raise NotAllowed(f"users may only write inputs/<sha256>/<name>, not {path}")
        return
    output = _OWN_OUTPUT.fullmatch(path)
    if output is None:
        raise NotAllowed(f"pilots may only write tasks/<task>/<attempt>/<file>, not {path}")
    require_own_attempt(context, who, AttemptId(int(output[1])))


@router.put("/storage/{path:path}", status_code=201)
async def put_object(request: Request, context: ContextOf, who: Anyone, path: str) -> Response:
    """Store an object; it appears when it is complete and its checksum is right."""
    context.storage.locate(path)
    await run_in_threadpool(_authorise_write, context, who, path)
    stored = await _receive(request, context.storage, path, request.headers.get(_CHECKSUM), _file_limit(context))
    facts = vars(stored)
    await run_in_threadpool(_record, context, facts)
    return JSONResponse(facts, status_code=201)


def _file_limit(context: Context) -> Limit:
    return Limit(
        size_bytes=context.settings.max_file_mb * 1_000_000,
        remedy="write several files, or let the endpoint's operator raise the setting max_file_mb",
    )


def _record(context: Context, facts: dict[str, Any]) -> None:
    with context.database.transaction() as connection:
        files.record_object(connection, facts)


@router.head("/storage/{path:path}")
@router.get("/storage/{path:path}")
def get_object(context: ContextOf, who: Anyone, path: str) -> FileResponse:
    """Return an object with its checksum as ETag."""
    found = context.storage.existing(path)
    with context.database.transaction() as connection:
        known = files.objects(connection, [path]).get(path)
    headers = {"etag": f'"{known["sha256"]}"'} if known else {}
    return FileResponse(found, media_type="application/octet-stream", headers=headers)


@router.head("/v1/sandboxes/{sha256}")
def head_sandbox(context: ContextOf, user: User, sha256: str) -> Response:
    """Tell whether a task file is there."""
    found = context.sandboxes.existing(sandbox_path(sha256))
    return Response(headers={"content-length": str(found.stat().st_size)})


@router.put("/v1/sandboxes/{sha256}", status_code=201)
async def put_sandbox(request: Request, context: ContextOf, user: User, sha256: str) -> Response:
    """Store a task file under its checksum."""
    if not _SHA256.fullmatch(sha256):
        return problem(422, "bad_request", "the address of a sandbox file is its SHA-256, 64 hexadecimal digits")
    limit = Limit(
        size_bytes=context.settings.max_sandbox_mb * 1_000_000,
        remedy="files of the sandbox are small, use `inputs.files` for large ones",
    )
    stored = await _receive(request, context.sandboxes, sandbox_path(sha256), sha256, limit)
    return JSONResponse({"sha256": stored.sha256, "size_bytes": stored.size_bytes}, status_code=201)
