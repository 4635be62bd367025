# SPDX-License-Identifier: Apache-2.0
"""Errors as RFC 9457 problem documents with our stable codes."""

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from glideflow.errors import GlideflowError, ServiceError, TaskFileError, UserError

logger = logging.getLogger(__name__)


def problem(status: int, code: str, detail: str, **more: Any) -> JSONResponse:
    """Return a problem document.

    Args:
        status: HTTP status.
        code: Our stable code.
        detail: What happened, with which values, and what to do.
        more: Further members.
    """
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, **more}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def _of_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, TaskFileError):
        return problem(error.status, error.code, str(error), problems=error.problems)
    if isinstance(error, UserError):
        return problem(error.status, error.code, str(error))
    if isinstance(error, ServiceError):
        return problem(503, error.code, str(error), retryable=error.retryable)
    logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "internal", "an error of glideflow itself; the endpoint's log has the details")


def _of_validation(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        return _of_error(request, error)
    problems = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return problem(422, "bad_request", "; ".join(problems), problems=problems)


def _of_http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return _of_error(request, error)
    return problem(error.status_code, "http", str(error.detail))


def _of_system(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        logger.error("%s %s: %s", request.method, request.url.path, error)
        text = "the endpoint's disk is full: nothing was stored; make room in its home, then everything goes on"
        return problem(HTTPStatus.INSUFFICIENT_STORAGE, "storage_full", text)
    return _of_error(request, error)


def problem_of(request: Request, error: Exception) -> JSONResponse:
    """Return the problem document of any error."""
    if isinstance(error, RequestValidationError):
        return _of_validation(request, error)
    return _of_system(request, error) if isinstance(error, OSError) else _of_error(request, error)


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    app.add_exception_handler(GlideflowError, _of_error)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(OSError, _of_system)
    app.add_exception_handler(Exception, _of_error)
