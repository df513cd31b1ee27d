"""What an attack achieved, with its interval, and what that says."""

from dataclasses import dataclass

from scipy.stats import binomtest

from smdl_flower.privacy.attacks.membership import Membership

LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """One measured success.

    Attributes:
        value: Share of trials, or area under the curve.
        low: Lower end of the 95 % interval.
        high: Upper end.
        trials: Attempts; for membership, memberships judged.
        right: Attempts that succeeded; None for an area under the curve.
    """

    value: float
    low: float
    high: float
    trials: int
    right: int | None = None

    @classmethod
    def of_count(cls, right: int, trials: int) -> "Score":
        """Return a share with its Clopper-Pearson interval.

        Example:
            >>> Score.of_count(0, 100).high < 0.04
            True
        """
        interval = binomtest(right, trials).proportion_ci(LEVEL)
        return cls(right / trials, float(interval.low), float(interval.high), trials, right)

    @classmethod
    def of_membership(cls, found: Membership, trials: int) -> "Score":
        """Return an area under the curve with the interval of its standard error."""
        reach = 1.96 * found.auc_error
        return cls(found.auc, found.auc - reach, found.auc + reach, trials)

    def text(self) -> str:
        """Return it for a table."""
        if self.right is not None:
            return f"{self.right} of {self.trials}"
        return f"AUC {self.value:.2f}"


@dataclass(frozen=True)
class Row:
    """One attack: its control, and how far it gets against the run.

    Attributes:
        attack: Name.
        question: What a success tells the attacker.
        control: The same attack on a channel without protection.
        needed: What the control must reach; else the attack does not work and says nothing.
        protected: Against the run's own channel and training.
        chance: What a guess reaches.
    """

    attack: str
    question: str
    control: Score
    needed: float
    protected: Score
    chance: float

    @property
    def works(self) -> bool:
        """Whether the control succeeded, so that a failure means something."""
        return self.control.value >= self.needed

    def verdict(self) -> str:
        """Return what the row says, in words."""
        if not self.works:
            return "attack not working, says nothing"
        if self.protected.low > self.chance:
            return "better than a guess"
        return "no better than a guess"
