# SPDX-License-Identifier: Apache-2.0
"""Find the data files that are not Python: in an installed wheel, or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """Return a data folder of the product.

    Args:
        name: `condor_templates`, `config` or `glexec_wrapper`.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"this installation of glideflow lacks its folder {name}; install it again")
