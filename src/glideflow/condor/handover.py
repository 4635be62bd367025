# SPDX-License-Identifier: Apache-2.0
"""Hand files to the private pool without HTCondor's spooling.

Spooled jobs are held for a second before they may start: the schedd's receiver sleeps that long, whatever the
configuration. The private pool's state is on this machine, so pilots for it are put where its daemons see them, by a
process inside its namespaces and under the pilots' account: the same for root and for an ordinary user, whose own
files that account could not read.

    state/handover/shared-<checksum>/pilot.pyz, ca.pem     for all pilots
    state/handover/<pilot id>/secret                       mode 0600; output is written next to it
"""

import hashlib
import io
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from glideflow.condor.private_pool import PrivatePool
from glideflow.errors import PoolError

INSIDE = PurePosixPath("/home/pilot/handover")
"""The folder as the pool's daemons see it."""
_SHARED = "shared-"
_PRIVATE_MODE, _SHARED_MODE = 0o600, 0o755


class Handover:
    """Files of pilots in a running private pool."""

    def __init__(self, pool: PrivatePool) -> None:
        """Name the pool; nothing is written."""
        self._pool = pool

    def put(self, shared: Mapping[str, Path], secrets: Mapping[str, str]) -> PurePosixPath:
        """Bring files into the pool.

        Args:
            shared: Files for all pilots, by their names there.
            secrets: The secret of each pilot, by its id.

        Returns:
            The folder with the shared files, as the pool sees it; each pilot's own is `INSIDE / id`.

        Raises:
            PoolError: The pool does not run, or its disk is full.
        """
        contents = {name: path.read_bytes() for name, path in sorted(shared.items())}
        folder = _SHARED + hashlib.sha256(b"\0".join(contents.values())).hexdigest()[:16]
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in contents.items():
                _add(archive, f"{folder}/{name}", content, _SHARED_MODE)
            for pilot_id, secret in secrets.items():
                _add(archive, f"{pilot_id}/secret", f"{secret}\n".encode(), _PRIVATE_MODE)
        # Pilots that start now may read the shared files: what is there is not written again.
        unpack = f"mkdir -p {INSIDE} && tar -C {INSIDE} --skip-old-files -xf -"
        self._pool.run(["sh", "-c", unpack], data=stream.getvalue())
        return INSIDE / folder

    def fetch(self, pilot_id: str, target: Path) -> None:
        """Copy what a pilot wrote into a folder outside.

        Raises:
            PoolError: It wrote nothing, or the pool does not run.
        """
        for name in ("pilot.out", "pilot.err", "pilot.log"):
            text = self._pool.run(["cat", str(INSIDE / pilot_id / name)])
            (target / name).write_text(text, encoding="utf-8")

    def drop(self, pilot_ids: Collection[str]) -> None:
        """Delete the folders of pilots."""
        if pilot_ids:
            self._pool.run(["rm", "-rf", "--", *(str(INSIDE / pilot_id) for pilot_id in pilot_ids)])

    def pilots(self) -> set[str]:
        """Return the ids of the pilots that have a folder."""
        try:
            names = self._pool.run(["ls", "-1", str(INSIDE)]).split()
        except PoolError:
            return set()
        return {name for name in names if not name.startswith(_SHARED)}


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
