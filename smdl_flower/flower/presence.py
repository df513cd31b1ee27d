"""Who is connected when a round begins: wait for participants, but not for ever.

Flower's strategies wait without end for a number of nodes. In a real federation an institution's
machine may stay off for days: a run begins with everybody, waits a while for whoever is missing,
and later goes on with as many as a round needs.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from smdl_flower.config import RunConfig
from smdl_flower.errors import FederationError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Presence:
    """Whom a round waits for.

    Attributes:
        participants: All of the federation; the first round waits for them.
        least: Without these no round begins.
        patience: Seconds that a round waits.
        clock: Seconds; for tests.
        sleep: For tests.
    """

    participants: int
    least: int
    patience: float
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    @classmethod
    def of(cls, run: RunConfig) -> "Presence":
        """Return what the run config asks for."""
        federation = run.federation
        return cls(run.data.participants, federation.min_replies, federation.connect_timeout)

    def await_round(self, grid: Grid, *, first: bool) -> None:
        """Return when enough nodes are connected.

        Args:
            grid: Knows who is connected.
            first: Whether this process has had no round yet: then everybody is waited for, and
                patience ended, whoever is there may begin.

        Raises:
            FederationError: Fewer than ``least`` came in time.
        """
        wanted = self.participants if first else self.least
        deadline = self.clock() + self.patience
        while (connected := len(list(grid.get_node_ids()))) < wanted:
            if self.clock() >= deadline:
                break
            self.sleep(POLL_SECONDS)
        if connected < self.least:
            raise FederationError(
                f"{connected} of {self.participants} participants are connected after "
                f"{self.patience:g} seconds (connect-timeout), and a round needs {self.least} "
                "(min-replies)"
            )
        if connected < self.participants:
            log.warning("%d of %d participants are connected", connected, self.participants)
