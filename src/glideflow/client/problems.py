# SPDX-License-Identifier: Apache-2.0
"""Turn the endpoint's problem documents (RFC 9457) back into the errors that it raised."""

from typing import Any

import httpx

from glideflow.errors import (
    GlideflowError,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    ServiceError,
    TaskFileError,
    UserError,
)

_BY_STATUS: dict[int, type[GlideflowError]] = {401: NotAuthenticated, 403: NotAllowed, 404: NotFound}


def error_of(response: httpx.Response) -> GlideflowError:
    """Return the error that an answer stands for.

    Args:
        response: An answer with status 400 or above, read completely.

    Returns:
        An error of the class with the document's `code`; its message is the endpoint's sentence.
    """
    document = _document(response)
    code = str(document.get("code", ""))
    kind = _by_code().get(code) or _BY_STATUS.get(response.status_code)
    kind = kind or (UserError if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR else ServiceError)
    if kind is TaskFileError:
        return TaskFileError([str(problem) for problem in document.get("problems") or [document.get("detail", "")]])
    text = str(document.get("detail") or document.get("title") or _plain(response))
    if kind is NotAuthenticated:
        text += ": check the token file (setting `token_file`)"
    # The constructors take subjects; here only the finished sentence is known.
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _plain(response: httpx.Response) -> str:
    request = response.request
    return f"{request.method} {request.url.path} was answered with {response.status_code} {response.reason_phrase}"


def _by_code() -> dict[str, type[GlideflowError]]:
    """All error classes by their code."""
    found: dict[str, type[GlideflowError]] = {}
    kinds: list[type[GlideflowError]] = [UserError, ServiceError]
    for kind in kinds:
        found.setdefault(kind.code, kind)
        kinds += kind.__subclasses__()
    return found
