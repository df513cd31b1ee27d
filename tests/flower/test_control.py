"""Following a run whose server does not always answer."""

import pytest

from smdl_flower.errors import FederationError
from smdl_flower.flower import control
from smdl_flower.flower.control import Control, RunEnd

DONE = RunEnd("finished:completed", "")


@pytest.fixture
def waiting(monkeypatch):
    """Wait for a run whose polls have these outcomes; exceptions are raised."""

    def wait(outcomes):
        left = iter(outcomes)

        def status(_, run_id):
            outcome = next(left)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(Control, "status", status)
        return Control({}).wait("7")

    monkeypatch.setattr("smdl_flower.flower.control.POLL_SECONDS", 0.0)
    return wait


def gone(times):
    return [FederationError("flwr list failed: connection refused") for _ in range(times)]


def test_a_few_polls_without_an_answer_do_not_end_the_wait(waiting):
    running = RunEnd("running", "")
    few = control.POLLS_UNANSWERED - 1
    assert waiting([running, *gone(few), running, *gone(few), DONE]) == DONE


def test_a_server_that_stays_away_ends_it(waiting):
    with pytest.raises(FederationError, match="connection refused"):
        waiting([*gone(control.POLLS_UNANSWERED), DONE])


def test_a_run_that_flower_does_not_know_has_ended(waiting):
    assert not waiting([RunEnd("unknown", "Flower does not list it")]).completed
