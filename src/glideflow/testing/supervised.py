# SPDX-License-Identifier: Apache-2.0
"""A supervisor over made-up components: `python -m glideflow.testing.supervised HOME COMPONENTS.json`.

The file holds a list of `{"name", "script"}`, where the script is Python, and optionally the other fields of
`Component` that are plain values. `"ready_file"` names a file whose presence means that the component works.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from glideflow.instance.components import Component
from glideflow.instance.home import Home
from glideflow.instance.processes import Command
from glideflow.instance.supervisor import supervise
from glideflow.settings import Settings, process_environment


def main() -> int:
    """Supervise until TERM, with the same code as the product."""
    root, file = (Path(argument) for argument in sys.argv[1:3])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    home = Home(Settings(home=root))
    home.create()
    return supervise(home, lambda: [_component(home, fields) for fields in json.loads(file.read_text())])


def _component(home: Home, fields: dict[str, Any]) -> Component:
    argv = [sys.executable, "-c", fields.pop("script")]
    environment = process_environment(GLIDEFLOW_HOME=str(home.root))
    ready_file = fields.pop("ready_file", None)
    fields["after"] = tuple(fields.get("after", ()))
    return Component(
        command=lambda: Command(argv=argv, folder=home.root, environment=environment),
        is_ready=lambda: ready_file is None or Path(ready_file).exists(),
        **fields,
    )


if __name__ == "__main__":
    sys.exit(main())
