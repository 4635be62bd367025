# SPDX-License-Identifier: Apache-2.0
"""Where the pilot's archive is: packed into a wheel, or built on demand in a checkout."""

import hashlib
import os
import tempfile
from pathlib import Path

import glideflow_pilot
from glideflow_pilot.archive import build_archive

_PACKED = Path(__file__).resolve().parent.parent / "_data" / "pilot.pyz"


def pilot_archive() -> Path:
    """Return the pilot's zipapp.

    In a checkout it is built anew at each call, which takes some ten milliseconds, so that it is never older than
    its source. Its name holds its checksum, so a file that a starting pilot reads is never replaced by another.

    Raises:
        OSError: It cannot be built.
    """
    if _PACKED.is_file():
        return _PACKED
    # A folder of this account alone: nobody else may put a file in its place.
    folder = Path(tempfile.gettempdir()) / f"glideflow-pilot-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another account; remove it or set TMPDIR")
    with tempfile.TemporaryDirectory(dir=folder) as fresh_folder:
        fresh = Path(fresh_folder) / "pilot.pyz"
        build_archive(Path(glideflow_pilot.__file__).parent, fresh)
        target = folder / f"pilot-{hashlib.sha256(fresh.read_bytes()).hexdigest()[:16]}.pyz"
        fresh.replace(target)
    return target
