# SPDX-License-Identifier: Apache-2.0
"""Build the pilot's zipapp: one file, the same bytes from the same source."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/env python3\n"
LEFT_OUT = frozenset({"archive.py"})
# The earliest date that a zip file can hold.
_DATE = (1980, 1, 1, 0, 0, 0)
_MAIN = b"""# SPDX-License-Identifier: Apache-2.0
import sys

if sys.version_info < (3, 9):
    sys.exit("the pilot needs Python 3.9 or newer; this is " + sys.version.split()[0])
from glideflow_pilot.main import main

sys.exit(main())
"""


def build_archive(source_folder: Path, target: Path) -> None:
    """Write the zipapp of a source folder, atomically.

    Dates, modes and order are fixed, so that the SHA-256 depends on the source alone.

    Args:
        source_folder: Folder of the package `glideflow_pilot`.
        target: The file to write; its folder must exist.

    Raises:
        OSError: The source cannot be read or the target not be written.
    """
    files = {"__main__.py": _MAIN}
    for path in sorted(source_folder.glob("*.py")):
        if path.name not in LEFT_OUT:
            files[f"glideflow_pilot/{path.name}"] = path.read_bytes()
    handle, name = tempfile.mkstemp(prefix=target.name, dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(SHEBANG)
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for entry in sorted(files):
                    archive.writestr(_entry(entry), files[entry])
        # Whoever builds it, every account may read and run it.
        os.chmod(name, 0o755)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    return entry
