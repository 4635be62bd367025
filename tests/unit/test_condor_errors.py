# SPDX-License-Identifier: Apache-2.0
"""Every failure of HTCondor's bindings becomes one of our errors."""

import inspect

import classad2
import htcondor2
import pytest

from glideflow.condor.errors import KINDS, kind_of
from glideflow.condor.worker import Worker, answer, plain
from glideflow.errors import CondorError


def test_the_bindings_have_no_exception_class_that_the_worker_does_not_know() -> None:
    known = {htcondor2.HTCondorException, classad2.ClassAdException}
    classes = {
        item
        for module in (htcondor2, classad2)
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, Exception)
    }
    assert classes <= known


def test_every_kind_is_an_error_of_ours() -> None:
    assert all(issubclass(error, CondorError) for error in KINDS.values())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CEDAR:6001:Failed to connect to <127.0.0.1:9>", "unreachable"),
        ("SECMAN:2007:Failed to end classad message.", "unreachable"),
        ("Unable to locate local daemon.", "unreachable"),
        ("AUTHENTICATE:1003:Failed to authenticate with any method", "access"),
        ("Failed to start command.", "access"),
        ("Failed to create job ad, errmsg=Submit:-1:Executable not found", "submission"),
        ("Unable to commit transaction: no", "request"),
        ("something new", "request"),
    ],
)
def test_the_text_tells_the_kind(text: str, kind: str) -> None:
    assert kind_of(text) == kind
    assert kind in KINDS


@pytest.mark.parametrize(
    "error",
    [htcondor2.HTCondorException("x"), classad2.ClassAdException("x"), TypeError("x"), ValueError("x"), OSError("x")],
)
def test_whatever_a_call_raises_is_answered(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: Worker) -> str:
        raise error

    monkeypatch.setattr(Worker, "ping", fail)
    succeeded, reply = answer(Worker(""), "ping", {})
    assert not succeeded
    assert reply[0] in KINDS


def test_undefined_attributes_are_absent_and_the_rest_is_plain() -> None:
    ad = classad2.ClassAd("[a = 1; b = undefined; c = {1, undefined, [d = error]}; e = x + 1; f = error; g = 'q']")
    ad["g"] = "text"
    found = plain(ad)
    assert found["a"] == 1
    assert "b" not in found
    assert "f" not in found
    assert found["c"] == [1, {}]
    assert found["e"] == "x + 1"
    assert found["g"] == "text"
