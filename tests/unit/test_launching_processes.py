# SPDX-License-Identifier: Apache-2.0
"""A process is known by its id and its start time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from glideflow.launching.processes import identify, wait_until

SECONDS = 20.0


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_running_process_is_alive_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    assert identity is not None
    assert identity.is_alive()
    identity.send(signal.SIGKILL)
    # Not waited for yet: a zombie counts as ended.
    assert identity.wait_gone(SECONDS)
    sleeper.wait()
    assert not identity.is_alive()
    assert identify(sleeper.pid) is None


@pytest.mark.parametrize("changes", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_another_process_with_the_same_id_gets_no_signal(
    sleeper: subprocess.Popen[bytes], changes: dict[str, object]
) -> None:
    identity = identify(sleeper.pid)
    assert identity is not None
    stranger = replace(identity, **changes)  # type: ignore[arg-type]
    assert not stranger.is_alive()
    stranger.send(signal.SIGKILL)
    assert identity.is_alive()


def test_a_name_with_spaces_and_parentheses_does_not_confuse_it(sleeper: subprocess.Popen[bytes]) -> None:
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) Z 1 2 (b'); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        identity = identify(odd.pid)
        assert identity is not None
        assert identity.is_alive()
        odd.kill()


def test_waiting_ends_with_the_time() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.05)
    me = identify(os.getpid())
    assert me is not None
    assert not me.wait_gone(0.05)
