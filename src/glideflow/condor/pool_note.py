# SPDX-License-Identifier: Apache-2.0
"""The note about the private pool that runs, `pool.json`: which process it is, its port and slots."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from glideflow.launching.processes import ProcessIdentity


@dataclass(frozen=True, kw_only=True)
class PoolNote:
    """What `pool.json` holds."""

    pid: int
    """First process of the pool's namespaces."""
    start_ticks: int
    boot_id: str
    port: int
    """Port of the collector, on the loopback interface."""
    slots: int
    """Cores that the pool advertises."""
    started_at: str
    """ISO 8601, UTC."""

    @property
    def init(self) -> ProcessIdentity:
        """The first process of the pool's namespaces."""
        return ProcessIdentity(self.pid, self.start_ticks, self.boot_id)

    @property
    def address(self) -> str:
        """Address of the collector."""
        return f"127.0.0.1:{self.port}"

    def save(self, path: Path) -> None:
        """Write the note; readers see the old one or this."""
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        draft.rename(path)


def read_note(path: Path) -> PoolNote | None:
    """Return the note of the last start, or None when there is none that can be read."""
    try:
        return PoolNote(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
