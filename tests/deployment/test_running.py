"""Waiting for participants before a run begins."""

from pathlib import Path

import pytest

from smdl_flower.deployment import running
from smdl_flower.deployment.folders import Federation
from smdl_flower.errors import FederationError
from smdl_flower.flower.control import Control

FEDERATION = Federation(Path(), "flower.example.org", 8000, ("clinic-a", "clinic-b"))
CONTROL = Control({})


@pytest.fixture
def connecting(monkeypatch):
    """Let a check of who is connected fail some times before it succeeds; count the checks."""

    def prepare(failures):
        checks = []

        def check(_federation, _control, *, least):
            checks.append(least)
            if len(checks) <= failures:
                raise FederationError("1 participants are connected and a round needs 2")
            return ["clinic-b"]

        monkeypatch.setattr("smdl_flower.deployment.admission.require_connected", check)
        monkeypatch.setattr("smdl_flower.deployment.running.POLL_SECONDS", 0.0)
        return checks

    return prepare


def test_who_comes_within_the_patience_is_waited_for(connecting):
    checks = connecting(failures=3)
    assert running._connected(FEDERATION, CONTROL, 2, patience=60.0) == ["clinic-b"]
    assert checks == [2, 2, 2, 2]


def test_without_patience_it_is_said_at_once(connecting):
    checks = connecting(failures=1)
    with pytest.raises(FederationError, match="1 participants"):
        running._connected(FEDERATION, CONTROL, 2, patience=0.0)
    assert checks == [2]


def test_patience_ends(connecting):
    connecting(failures=10**9)
    with pytest.raises(FederationError, match="1 participants"):
        running._connected(FEDERATION, CONTROL, 2, patience=0.05)
