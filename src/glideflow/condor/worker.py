# SPDX-License-Identifier: Apache-2.0
"""The process that calls HTCondor's bindings, the only importer of them.

Started by `Gateway` with the environment that the bindings need at their import:
`python -m glideflow.condor.worker FD [SCHEDD]`. Questions and answers travel over the pipe FD; the process ends when
the other side closes it. It serves one schedd as one identity.
"""

import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import classad2
import htcondor2

from glideflow.condor.errors import kind_of

_REASON_SUBCODE = 1
_SPACES = re.compile(r"\s+")


class Worker:
    """One schedd, located once."""

    def __init__(self, schedd_name: str) -> None:
        """Remember the wanted schedd.

        Args:
            schedd_name: Its name; empty where the pool has only one, or one on this machine.
        """
        self._name = schedd_name
        self._ad: Any = None

    def ping(self) -> str:
        """Return the user that the schedd takes us for."""
        return str(htcondor2.ping(self._locate(), "WRITE")["MyRemoteUserName"])

    def submit(self, description: str, items: list[dict[str, str]], spool: bool) -> dict[str, int]:
        """Submit one cluster and send its files; a cluster whose files could not be sent is removed again."""
        schedd = self._schedd()
        with warnings.catch_warnings(record=True):
            result = schedd.submit(htcondor2.Submit(description), spool=spool, itemdata=iter(items))
        if spool:
            try:
                schedd.spool(result)
            except htcondor2.HTCondorException:
                reason = ("its input files could not be sent", _REASON_SUBCODE)
                schedd.act(htcondor2.JobAction.RemoveX, str(result.cluster()), reason)
                raise
        # As condor_submit does: else the negotiator hears of the jobs at the schedd's next regular update.
        schedd.reschedule()
        return {"cluster": result.cluster(), "first_proc": result.first_proc(), "count": result.num_procs()}

    def query(self, constraint: str, projection: list[str]) -> list[dict[str, Any]]:
        """Return plain dictionaries."""
        # Parsed here, a wrong expression is told from a schedd that does not answer.
        parsed = classad2.ExprTree(constraint)
        return [plain(ad) for ad in self._schedd().query(parsed, projection)]

    def act(self, action: str, batch_ids: list[str], reason: str) -> int:
        """Act on jobs; returns how many it worked for."""
        # A reason as a plain string is dropped by the bindings; a pair arrives.
        answer = self._schedd().act(htcondor2.JobAction[action], batch_ids, (reason, _REASON_SUBCODE))
        return int(answer["TotalSuccess"])

    def retrieve(self, batch_ids: list[str]) -> None:
        """Fetch the output of spooled jobs."""
        for batch_id in batch_ids:
            self._schedd().retrieve(batch_id)

    def forget(self) -> None:
        """Locate the schedd anew next time: it may have come back at another address."""
        self._ad = None

    def _schedd(self) -> Any:
        return htcondor2.Schedd(self._locate())

    def _locate(self) -> Any:
        """Return the schedd's location; `Schedd(None)` would silently mean another one."""
        if self._ad is None:
            self._ad = self._find()
        return self._ad

    def _find(self) -> Any:
        kind = htcondor2.DaemonType.Schedd
        collector = htcondor2.Collector()
        if self._name:
            found = collector.locate(kind, self._name)
            if found is None:
                raise htcondor2.HTCondorException(f"Unable to locate the schedd {self._name} in the collector")
            return found
        try:
            known = collector.locateAll(kind)
        except htcondor2.HTCondorException:
            # It only says that communication failed; asked for our rights the collector says whether it is there.
            htcondor2.ping(f"<{htcondor2.param['COLLECTOR_HOST']}>", "READ")
            raise
        if len(known) == 1:
            return known[0]
        if not known:
            raise htcondor2.HTCondorException("Unable to locate a schedd: the collector knows none")
        try:
            return collector.locate(kind)
        except htcondor2.HTCondorException as error:
            names = ", ".join(sorted(str(ad["Name"]) for ad in known)[:5])
            raise htcondor2.HTCondorException(f"choose one of several schedds with condor_schedd: {names}") from error


def plain(value: Any) -> Any:
    """Turn what the bindings return into Python's own types; undefined attributes are left out."""
    if isinstance(value, classad2.ClassAd):
        return {key: plain(item) for key, item in value.items() if not isinstance(item, classad2.Value)}
    if isinstance(value, list):
        return [plain(item) for item in value if not isinstance(item, classad2.Value)]
    return str(value) if isinstance(value, classad2.ExprTree) else value


def answer(worker: Worker, command: str, arguments: Mapping[str, Any]) -> tuple[bool, Any]:
    """Make one call.

    Returns:
        Whether it worked, and its result or a pair of kind and text.
    """
    commands: dict[str, Callable[..., Any]] = {
        "ping": worker.ping, "submit": worker.submit, "query": worker.query, "act": worker.act,
        "retrieve": worker.retrieve,
    }  # fmt: skip
    try:
        return True, commands[command](**arguments)
    except htcondor2.HTCondorException as error:
        worker.forget()
        text = _one_line(error)
        return False, (kind_of(text), text)
    except classad2.ClassAdException as error:
        return False, ("request", f"not a ClassAd expression: {_one_line(error)}")
    except (TypeError, ValueError, KeyError, OSError) as error:
        return False, ("request", f"{command}: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return _SPACES.sub(" ", str(error)).strip()


def main() -> None:
    """Answer questions until the other side of the pipe is closed."""
    # The terminal's interrupt is the parent's business; it closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(sys.argv[2] if len(sys.argv) > 2 else "")
    with Connection(int(sys.argv[1])) as pipe:
        while True:
            try:
                command, arguments = pipe.recv()
            except EOFError:
                return
            pipe.send(answer(worker, command, arguments))


if __name__ == "__main__":
    main()
