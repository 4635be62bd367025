# SPDX-License-Identifier: Apache-2.0
"""What to do with a held pilot: a table by HTCondor's hold code; what it does not know cannot be mended by waiting."""

from dataclasses import dataclass
from enum import StrEnum


class HoldAction(StrEnum):
    """What happens to a held pilot next."""

    WAIT = "wait"
    """Nothing yet: it is being submitted, or its time of release has not come."""
    RELEASE = "release"
    """It goes back to the queue."""
    REMOVE = "remove"
    """Its output is fetched and it is removed; the provisioning sends another one if there is work."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision and its sentence."""

    action: HoldAction
    """What to do."""
    text: str
    """Why, for `explain` and for the reason in the job's ad."""


SPOOLING = 16
"""Input files are on their way to the schedd; no failure."""
BACK_OFF_SECONDS = 300
"""A pilot that was held n times is released n times this many seconds after its last hold."""
MAX_RELEASES = 10

_ANY = -1
_HEALING: dict[tuple[int, int], str] = {
    (12, _ANY): "its output could not be transferred",
    (13, _ANY): "its input could not be transferred",
    (45, _ANY): "its node failed the container test",
}
"""Holds that may go away at another time or on another node. Source: HTCondor manual, HoldReasonCode."""
_KNOWN: dict[tuple[int, int], str] = {
    (1, _ANY): "somebody held it",
    (3, 42): "it could not start or crashed",
    (3, _ANY): "a policy in its own submit description held it",
    (4, _ANY): "its credential is missing or expired",
    (6, _ANY): "it could not be executed on its node",
    (14, _ANY): "its working folder is missing",
    (21, _ANY): "its node held it",
    (22, _ANY): "its log cannot be written",
    (26, _ANY): "a policy of the schedd held it",
    (34, 102): "it used more memory than it asked for",
    (34, 104): "it used more disk than it asked for",
    (34, _ANY): "it used more than it asked for",
    (46, _ANY): "it outlived the job duration",
    (47, _ANY): "it outlived its wall time",
}


def decide(*, code: int, subcode: int, holds: int, held_seconds: float, text: str) -> Verdict:
    """Decide about a held pilot.

    Args:
        code: HoldReasonCode.
        subcode: HoldReasonSubCode.
        holds: How often it has been held, this time included.
        held_seconds: For how long it has been held now.
        text: HTCondor's sentence.

    Returns:
        The action; unknown codes are removed.

    Source: glideinWMS, where each hold code is unrecoverable unless it is listed.
    """
    if code == SPOOLING:
        return Verdict(action=HoldAction.WAIT, text="its input files are on their way")
    where = f"hold {code}/{subcode}" + (f": {text}" if text else "")
    healing = _look_up(_HEALING, code, subcode)
    if healing is None:
        why = _look_up(_KNOWN, code, subcode) or "an unknown hold, taken as permanent"
        return Verdict(action=HoldAction.REMOVE, text=f"the pilot was held and is removed: {why} ({where})")
    if holds > MAX_RELEASES:
        return Verdict(
            action=HoldAction.REMOVE, text=f"the pilot was held {holds} times and is removed: {healing} ({where})"
        )
    if held_seconds < holds * BACK_OFF_SECONDS:
        left = holds * BACK_OFF_SECONDS - held_seconds
        return Verdict(
            action=HoldAction.WAIT, text=f"the pilot is held and released in {left:.0f} s: {healing} ({where})"
        )
    return Verdict(action=HoldAction.RELEASE, text=f"the pilot is released: {healing} ({where})")


def _look_up(table: dict[tuple[int, int], str], code: int, subcode: int) -> str | None:
    return table.get((code, subcode)) or table.get((code, _ANY))
