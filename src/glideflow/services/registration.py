# SPDX-License-Identifier: Apache-2.0
"""Pilots come and go: registration by a one-time secret, session keys, the good-bye."""

import threading

from glideflow.domain.identifiers import PilotId
from glideflow.domain.messages import Goodbye, Registration
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import PilotState
from glideflow.errors import NotAllowed, NotAuthenticated
from glideflow.identity.secrets import hashed, matches, new_secret
from glideflow.services.completion import announce_ended_stages
from glideflow.services.policies import Policies
from glideflow.services.settlement import give_up
from glideflow.store import pilots
from glideflow.store.engine import Database
from glideflow.store.moves import move, reason_values

_MAY_REGISTER = frozenset({PilotState.PLANNED, PilotState.SUBMITTED, PilotState.HELD, PilotState.REGISTERED})


class RegistrationRefused(NotAllowed):
    """A pilot may not register; whoever tries is told no more than that."""

    code = "registration_refused"

    def __init__(self, pilot_id: str) -> None:
        self.pilot_id = pilot_id
        super().__init__(
            f"pilot {pilot_id} may not register: its id is unknown, its secret is wrong or was used, or it ended before"
        )


def register(database: Database, registration: Registration) -> str:
    """Let a pilot in.

    A pilot whose answer was lost registers again with the same secret, as long as it has not spoken since.

    Returns:
        Its session key, which is stored only as a hash.

    Raises:
        RegistrationRefused: Unknown, wrong secret, used secret, or a pilot that ended.
    """
    pilot_id = PilotId(registration.pilot_id)
    key = new_secret()
    with database.transaction() as connection:
        pilot = pilots.lock(connection, pilot_id)
        welcome = (
            pilot is not None
            and matches(registration.secret, pilot["secret_hash"])
            and pilot["state"] in _MAY_REGISTER
            and pilot["sequence"] == 0
            and pilot["site"] == registration.site
        )
        if not welcome:
            raise RegistrationRefused(registration.pilot_id)
        move(connection, PilotState.REGISTERED, [pilot_id])
        pilots.describe(connection, pilot_id, hashed(key), registration.model_dump(exclude={"secret", "pilot_id"}))
    return key


def goodbye(database: Database, policies: Policies, pilot_id: PilotId, message: Goodbye) -> None:
    """Note that a pilot ended, and give its unreported attempts to others, as the failure policies say."""
    reason = message.reason.reason()
    with database.transaction() as connection:
        pilots.end(
            connection, PilotState.ENDED, [{"id": pilot_id, **reason_values(reason), "log": message.log or None}]
        )
        text = f"its pilot {pilot_id} ended without a report ({reason.text})"
        lost = Reason(code=ReasonCode.PILOT_LOST, text=text, source=Source.SERVER)
        ended = give_up(connection, policies, [pilot_id], lost)
    announce_ended_stages(database, ended)


class PilotKeys:
    """Checks the session keys of pilots; keys that were right once are remembered in memory.

    Args:
        database: The store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}

    def remembered(self, bearer: str) -> PilotId | None:
        """Return whose key it is, if it was right before; asks nobody."""
        pilot_id, _, key = bearer.partition(".")
        return PilotId(pilot_id) if self._known.get(pilot_id) == hashed(key) else None

    def authenticate(self, bearer: str) -> PilotId:
        """Return whose key it is.

        Args:
            bearer: `<pilot id>.<session key>`.

        Raises:
            NotAuthenticated: No living pilot has this key.
        """
        known = self.remembered(bearer)
        if known is not None:
            return known
        pilot_id, _, key = bearer.partition(".")
        with self._database.transaction() as connection:
            stored = pilots.key_hash(connection, PilotId(pilot_id))
        if stored is None or not matches(key, stored):
            raise NotAuthenticated("the pilot's session key is not valid: it ended, or never registered")
        with self._lock:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[pilot_id] = stored
        return PilotId(pilot_id)
