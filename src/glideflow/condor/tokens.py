# SPDX-License-Identifier: Apache-2.0
"""Look at HTCondor's token files before HTCondor does: it ignores a bad one and only says that it has none."""

import base64
import binascii
import json
import os
import stat
import time
from pathlib import Path

from glideflow.condor.errors import TokenUnusable

_FORBIDDEN_MODE = 0o077


def check_tokens(folder: Path, remedy: str) -> None:
    """Check that a folder holds a token that HTCondor will use.

    Args:
        folder: HTCondor's SEC_TOKEN_DIRECTORY.
        remedy: How this pool's tokens are made anew, for the message.

    Raises:
        TokenUnusable: No token is usable; names the file, what is wrong and what to do.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise TokenUnusable(folder, f"cannot be read ({error.strerror})", remedy) from error
    if not files:
        raise TokenUnusable(folder, "is an empty folder, it holds no token", remedy)
    problems = [_problem_of(path, remedy) for path in files]
    refused = [problem for problem in problems if problem is not None]
    # One good token is enough; the others may be for other pools.
    if len(refused) == len(files):
        raise refused[0]


def seconds_left(path: Path) -> float | None:
    """Return for how many seconds a token file is still valid; None when it never expires.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no token.
    """
    expires = _claims(path).get("exp")
    return None if expires is None else float(str(expires)) - time.time()


def _problem_of(path: Path, remedy: str) -> TokenUnusable | None:
    try:
        about = path.stat()
        if about.st_uid != os.geteuid():
            return TokenUnusable(
                path,
                f"belongs to uid {about.st_uid}, so HTCondor ignores it for uid {os.geteuid()}",
                f"make it a file of the account that runs glideflow, or {remedy}",
            )
        if stat.S_IMODE(about.st_mode) & _FORBIDDEN_MODE:
            mode = stat.S_IMODE(about.st_mode)
            return TokenUnusable(path, f"has mode {mode:04o}, so HTCondor ignores it", f"run `chmod 600 {path}`")
        left = seconds_left(path)
    except OSError as error:
        return TokenUnusable(path, f"cannot be read ({error.strerror})", f"run `chmod 600 {path}`, or {remedy}")
    except ValueError:
        return TokenUnusable(path, "is no HTCondor token", remedy)
    if left is not None and left <= 0:
        return TokenUnusable(path, f"expired {_ago(-left)} ago", remedy)
    return None


def _claims(path: Path) -> dict[str, object]:
    """Return the claims of the first token in a file; the signature is the schedd's business."""
    lines = (line.strip() for line in path.read_text(encoding="ascii").splitlines())
    token = next((line for line in lines if line and not line.startswith("#")), "")
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not a JWT")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("not a JWT") from error
    if not isinstance(claims, dict):
        raise ValueError("not a JWT")
    return claims


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
