# SPDX-License-Identifier: Apache-2.0
"""Who acts."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An authenticated person or service; authorisation looks only at this."""

    method: str
    """How it was proved, for example `home-token`."""
    subject: str
    """Who it is; the owner of what it submits."""
    vo: str
    """Virtual organisation."""
