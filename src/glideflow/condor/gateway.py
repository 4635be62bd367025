# SPDX-License-Identifier: Apache-2.0
"""The gateway to one schedd: every call of HTCondor's bindings happens in a process that can be killed.

The bindings hold Python's global lock while they wait for the network, so a schedd that hangs would stop all threads
of the caller. The worker process is started at the first call, killed when a call takes too long, and started again
at the next one.
"""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from typing import Any, Self

from glideflow.condor.connection import Connection, connection_of
from glideflow.condor.errors import KINDS, AccessRefused, RequestRefused
from glideflow.condor.tokens import check_tokens
from glideflow.errors import CondorError
from glideflow.launching.launcher import HomePaths
from glideflow.settings import Settings

_STOP_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A cluster that the schedd took."""

    cluster: int
    """Its number."""
    first_proc: int
    """Number of its first job."""
    count: int
    """Number of its jobs."""

    def batch_id(self, position: int) -> str:
        """Return `cluster.proc` of the job at a position of the item data."""
        return f"{self.cluster}.{self.first_proc + position}"


class Gateway:
    """One schedd, as one identity. Threads may share it; calls are made one at a time."""

    def __init__(self, connection: Connection, timeout_seconds: float = 30.0) -> None:
        """Remember how to reach the schedd; nothing is started.

        Args:
            connection: Environment, schedd and token folder.
            timeout_seconds: Longest time of one call.
        """
        self.connection = connection
        self.timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: PipeEnd | None = None

    @classmethod
    def of(cls, settings: Settings, home: HomePaths) -> Self:
        """Return the gateway to the pool that an instance uses.

        Raises:
            SchedulerUnreachable: There is no pool.
        """
        return cls(connection_of(settings, home), settings.condor_timeout_seconds)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the worker process."""
        self.close()

    def ping(self) -> str:
        """Return who we are at the schedd, which must let us submit.

        Raises:
            CondorError: It does not answer, or does not let us.
        """
        user = str(self._call("ping"))
        if user.startswith("unauthenticated"):
            raise AccessRefused(f"{self.connection.pool} does not know us ({user}): {self.connection.remedy}")
        return user

    def submit(self, description: str, items: Sequence[Mapping[str, str]], *, spool: bool = True) -> Submitted:
        """Submit one cluster.

        Args:
            description: Submit description without a queue statement.
            items: One mapping per job, all with the same keys; the description uses them as `$(key)`.
            spool: Send the input files to the schedd, as from another machine.

        Raises:
            SubmissionRefused: The description or the jobs are not accepted; nothing of them stays in the queue.
        """
        if not items:
            raise RequestRefused("a submission without any job")
        answer = self._call("submit", description=description, items=[dict(item) for item in items], spool=spool)
        return Submitted(**answer)

    def query(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return the attributes of the jobs in the queue that match.

        Args:
            constraint: ClassAd expression.
            projection: Names of the wanted attributes; undefined ones are absent, others may be added.
        """
        return list(self._call("query", constraint=constraint, projection=list(projection)))

    def remove(self, batch_ids: Sequence[str], reason: str) -> int:
        """Remove jobs; returns how many were there.

        Args:
            batch_ids: `cluster.proc` each; those that are gone are no error.
            reason: For people, in the job's `RemoveReason`.
        """
        return self._act("Remove", batch_ids, reason)

    def hold(self, batch_ids: Sequence[str], reason: str) -> int:
        """Hold jobs; returns how many were held."""
        return self._act("Hold", batch_ids, reason)

    def release(self, batch_ids: Sequence[str], reason: str) -> int:
        """Release held jobs; returns how many were released."""
        return self._act("Release", batch_ids, reason)

    def retrieve(self, batch_ids: Sequence[str]) -> None:
        """Fetch the output of spooled jobs into the folders that they were submitted from."""
        if batch_ids:
            self._call("retrieve", batch_ids=list(batch_ids))

    def close(self) -> None:
        """End the worker process; the next call starts another one."""
        with self._lock:
            self._stop()

    def _act(self, action: str, batch_ids: Sequence[str], reason: str) -> int:
        if not batch_ids:
            return 0
        return int(self._call("act", action=action, batch_ids=list(batch_ids), reason=reason))

    def _call(self, command: str, **arguments: object) -> Any:
        """Let the worker process make one call.

        Raises:
            CondorError: What went wrong, as a sentence with what to do.
        """
        if self.connection.tokens is not None:
            check_tokens(self.connection.tokens, self.connection.remedy)
        with self._lock:
            succeeded, answer = self._exchange((command, arguments))
        if succeeded:
            return answer
        kind, text = answer
        raise self._error(str(kind), str(text))

    def _exchange(self, question: object) -> tuple[bool, Any]:
        try:
            pipe = self._running()
            pipe.send(question)
            if pipe.poll(self.timeout_seconds):
                succeeded, answer = pipe.recv()
                return bool(succeeded), answer
        except (EOFError, OSError) as error:
            self._stop()
            return False, ("request", f"the gateway process ended: {error!r}")
        self._stop()
        return False, ("unreachable", f"no answer within {self.timeout_seconds:g} s")

    def _running(self) -> PipeEnd:
        if self._pipe is not None and self._process is not None and self._process.poll() is None:
            return self._pipe
        self._stop()
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "glideflow.condor.worker", str(theirs.fileno()), self.connection.schedd or ""],
                env=self.connection.environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._pipe = ours
        return ours

    def _stop(self) -> None:
        if self._pipe is not None:
            # The worker ends at the end of the pipe, unless it hangs in a call.
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
        self._pipe = self._process = None

    def _error(self, kind: str, text: str) -> CondorError:
        pool, advice = self.connection.pool, self.connection.advice
        sentences = {
            "unreachable": f"the schedd of {pool} does not answer ({text}): {advice}",
            "access": f"{pool} refuses our token ({text}): {self.connection.remedy}",
            "submission": f"{pool} did not take the pilots ({text}): check the site's submit template",
        }
        error = KINDS.get(kind, RequestRefused)
        return error(sentences.get(kind, f"{pool} refused a request: {text}"))
