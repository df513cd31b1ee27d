"""Whom a round waits for, with a clock of our own."""

import pytest

from smdl_flower import config
from smdl_flower.errors import FederationError
from smdl_flower.flower.inline import InlineGrid
from smdl_flower.flower.presence import Presence


class Nodes(InlineGrid):
    """A grid whose node list grows as seconds pass."""

    def __init__(self, *counts):
        self.counts = counts
        self.seconds = 0

    def get_node_ids(self):
        return range(self.counts[min(self.seconds, len(self.counts) - 1)])

    def wait(self, *, first, patience=5.0):
        def sleep(seconds):
            self.seconds += int(seconds)

        presence = Presence(3, 2, patience, clock=lambda: float(self.seconds), sleep=sleep)
        presence.await_round(self, first=first)
        return self.seconds


def test_the_first_round_waits_for_everybody():
    assert Nodes(0, 2, 2, 3).wait(first=True) == 3


def test_the_first_round_begins_without_those_who_do_not_come_in_time():
    assert Nodes(2).wait(first=True) == 5


def test_a_later_round_begins_as_soon_as_there_are_enough():
    assert Nodes(2).wait(first=False) == 0
    assert Nodes(1, 1, 2).wait(first=False) == 2


@pytest.mark.parametrize("first", [True, False])
def test_with_too_few_the_run_stops_and_says_who_it_waited_for(first):
    with pytest.raises(FederationError, match=r"1 of 3 .* after 5 seconds .* needs 2"):
        Nodes(1).wait(first=first)


def test_it_follows_the_run_config():
    flat = config.load_defaults(config.example_app_dir()) | {"connect-timeout": 7.0}
    assert Presence.of(config.parse(flat)) == Presence(5, 2, 7.0)
