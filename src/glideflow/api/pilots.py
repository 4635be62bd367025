# SPDX-License-Identifier: Apache-2.0
"""Routes for pilots."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from glideflow.api.authentication import BearerOf, ContextOf, Pilot
from glideflow.api.context import Context
from glideflow.api.problems import problem
from glideflow.domain.identifiers import AttemptId
from glideflow.domain.messages import Answer, Exchange, Goodbye, Registration
from glideflow.domain.site import Site
from glideflow.errors import NotAllowed, NotFound
from glideflow.services.attempt_logs import LogGap, append_log
from glideflow.services.registration import goodbye, register
from glideflow.services.storage import sandbox_path
from glideflow.settings import Settings
from glideflow.store import attempts

router = APIRouter(prefix="/pilot/v1", tags=["pilots"])

LONGEST_LOG_CHUNK = 4_000_000
RETRY_SECONDS = 900
LOG_INTERVAL_SECONDS = 2


@router.post("/register")
def register_pilot(context: ContextOf, registration: Registration) -> dict[str, Any]:
    """Let a pilot in by its one-time secret; answers with its session key and its site's settings."""
    key = register(context.database, registration)
    return {"session_key": key, "settings": pilot_settings(context.settings, context.sites.get(registration.site))}


def pilot_settings(settings: Settings, site: Site | None) -> dict[str, float]:
    """Return what a pilot is told when it registers."""
    chosen = site or Site(name="unknown")
    return {
        "heartbeat_seconds": settings.heartbeat_seconds,
        "long_poll_seconds": settings.long_poll_seconds,
        "idle_seconds": chosen.idle_seconds,
        # Half of the time between the batch system's TERM and KILL is left for reports and the good-bye.
        "grace_seconds": chosen.vacate_seconds / 2,
        "log_interval_seconds": LOG_INTERVAL_SECONDS,
        "log_limit_bytes": settings.log_limit_mb * 1_000_000,
        "file_limit_bytes": settings.max_file_mb * 1_000_000,
        "retry_seconds": RETRY_SECONDS,
    }


@router.post("/exchange")
def exchange(message: Exchange) -> Answer:
    """Heartbeat, reports and the wish for work; the answer has receipts, commands and orders."""
    raise NotImplementedError("this function is only the route's description; api.hot_path answers")


@router.post("/goodbye")
def say_goodbye(context: ContextOf, pilot: Pilot, message: Goodbye) -> dict[str, Any]:
    """Note a pilot's end and its last words."""
    goodbye(context.database, context.policies, pilot, message)
    return {}


@router.get("/sandboxes/{sha256}")
def get_sandbox(context: ContextOf, pilot: Pilot, sha256: str) -> FileResponse:
    """Return a task's file by its checksum."""
    return FileResponse(context.sandboxes.existing(sandbox_path(sha256)), media_type="application/octet-stream")


@router.put("/attempts/{attempt_id}/log")
async def put_log(request: Request, context: ContextOf, bearer: BearerOf, attempt_id: int, offset: int) -> Response:
    """Append to an attempt's log; a chunk that was sent before is not appended twice."""
    chunk = bytearray()
    async for part in request.stream():
        chunk += part
        if len(chunk) > LONGEST_LOG_CHUNK:
            return problem(413, "too_large", f"a log chunk has at most {LONGEST_LOG_CHUNK} bytes: send several")
    return await run_in_threadpool(_append, context, bearer, AttemptId(attempt_id), offset, bytes(chunk))


def _append(context: Context, bearer: str, attempt_id: AttemptId, offset: int, chunk: bytes) -> Response:
    require_own_attempt(context, context.keys.authenticate(bearer), attempt_id)
    limit = context.settings.log_limit_mb * 1_000_000 + 1_000_000
    try:
        size = append_log(context.attempt_logs, attempt_id, offset, chunk, limit)
    except LogGap as gap:
        return problem(gap.status, gap.code, str(gap), size_bytes=gap.size_bytes)
    return Response(f'{{"size_bytes": {size}}}', media_type="application/json")


def require_own_attempt(context: Context, pilot: str, attempt_id: AttemptId) -> None:
    """Let a pilot write only for its own attempts.

    Raises:
        NotFound: There is no such attempt.
        NotAllowed: It belongs to another pilot.
    """
    with context.database.transaction() as connection:
        owner = attempts.pilot_of(connection, attempt_id)
    if owner is None:
        raise NotFound("attempt", attempt_id)
    if owner != pilot:
        raise NotAllowed(f"attempt {attempt_id} belongs to another pilot")
