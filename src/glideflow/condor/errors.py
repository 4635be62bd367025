# SPDX-License-Identifier: Apache-2.0
"""What HTCondor may answer, as errors with a sentence that says what to do.

    CondorError
    |-- SchedulerUnreachable   no answer, or none in time
    |-- AccessRefused          the schedd does not accept who we are
    |-- TokenUnusable          the token file is missing, unreadable, ignored or expired
    |-- SubmissionRefused      the schedd did not take the jobs
    `-- RequestRefused         another request was refused or makes no sense

The bindings have one exception class for everything remote; its text is the only thing that tells the cases apart.
"""

from pathlib import Path

from glideflow.errors import CondorError


class SchedulerUnreachable(CondorError):
    """The schedd does not answer."""

    code = "schedd_unreachable"


class AccessRefused(CondorError):
    """The schedd does not accept our token."""

    code = "condor_access_refused"
    retryable = False


class TokenUnusable(CondorError):
    """The token cannot be used."""

    code = "condor_token"
    retryable = False

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        self.remedy = remedy
        super().__init__(f"the HTCondor token {path} {problem}: {remedy}")


class SubmissionRefused(CondorError):
    """The schedd did not take the jobs."""

    code = "condor_submission_refused"
    retryable = False


class RequestRefused(CondorError):
    """HTCondor refused a request."""

    code = "condor_request_refused"


KINDS: dict[str, type[CondorError]] = {
    "unreachable": SchedulerUnreachable,
    "access": AccessRefused,
    "submission": SubmissionRefused,
    "request": RequestRefused,
}
"""Kinds of failure as the worker process reports them."""

_SIGNS = (
    # An overloaded schedd and a refused connection both are cured by waiting; so they come before the rest,
    # which may quote them.
    (
        "unreachable",
        (
            "CEDAR:6001",
            "SECMAN:2007",
            "SECMAN:2003",
            "CEDAR:6002",
            "Failed to connect",
            "Unable to connect",
            "Unable to locate",
        ),
    ),
    ("access", ("AUTHENTICATE:", "SECMAN:2009", "SECMAN:2010", "Failed to start command", "PERMISSION", "denied")),
    (
        "submission",
        (
            "Submit:-1",
            "spoolJobFiles",
            "Failed to create job ad",
            "Failed to create new proc",
            "Failed to create new cluster",
        ),
    ),
    ("unreachable", ("Failed communication", "communication error", "Failed to fetch ads from schedd", "timed out")),
)


def kind_of(text: str) -> str:
    """Return the kind of failure that a text of the bindings means.

    Args:
        text: What `HTCondorException` says.

    Returns:
        A key of `KINDS`; `request` when nothing is recognised.

    Source: reference of the bindings, error texts measured with 25.14.
    """
    for kind, signs in _SIGNS:
        if any(sign in text for sign in signs):
            return kind
    return "request"
