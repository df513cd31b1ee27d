"""What a participant declares about its training, and what a server requires of it.

A run that asks for ``dp`` uses no update without a declaration that matches the run: a client build
that adds no noise leaves its institution unprotected, and must not go unnoticed. A participant
that lies is not found out; it harms its own images only.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from smdl_flower.config import RunConfig
from smdl_flower.errors import PrivacyError
from smdl_flower.privacy.accounting import Steps, epsilon, sigma_of_run, steps_of_round, version
from smdl_flower.privacy.partition import PrivacyPartition

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Declaration:
    """One round's training at one participant.

    Attributes:
        partition_sha256: Commitment to the privacy partition.
        channel: Always ``dp``.
        sigma: Noise multiplier.
        max_grad_norm: Clipping norm of an image's gradient.
        sample_rate: Chance of each image to be in a step.
        steps: Noised steps of this round.
        delta: Of the guarantee.
        epsilon: Of all that the participant's ledger has paid for, this round included.
        cap: Largest epsilon of that ledger.
        charges: Entries of that ledger.
        ledger_head: Digest of its last line, hexadecimal.
        rng: ``os``, or ``seeded`` in simulations that claim nothing.
        accountant: Which accountant, and its version.
    """

    partition_sha256: str
    channel: str
    sigma: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    delta: float
    epsilon: float
    cap: float
    charges: int
    ledger_head: str
    rng: str
    accountant: str

    def to_record(self) -> dict[str, str | int | float]:
        """Return the declaration as the values of a Flower ConfigRecord."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Declaration":
        """Read what a participant sent.

        Raises:
            PrivacyError: A value is missing, of another type, not finite, or there are others.
        """
        values = {name.replace("-", "_"): value for name, value in record.items()}
        kinds = {field.name: field.type for field in fields(cls)}
        if set(values) != set(kinds):
            raise PrivacyError("its privacy declaration is missing or incomplete")
        for name, value in values.items():
            if type(value) is not kinds[name] or (
                type(value) is float and not math.isfinite(value)
            ):
                raise PrivacyError(f"its privacy declaration has no valid {name}")
        return cls(**values)


@dataclass(frozen=True)
class Terms:
    """What every reply of a ``dp`` run must declare.

    Attributes:
        partition_sha256: Commitment to the run's partition.
        round: The noised steps of one round.
        max_grad_norm: Clipping norm.
        delta: Of the guarantee.
        epsilon: What one round costs at least, and the run at most.
        rng: Kind of randomness.
        shard_size: The public number that stands in for each participant's count of images.
    """

    partition_sha256: str
    round: Steps
    max_grad_norm: float
    delta: float
    epsilon: float
    rng: str
    shard_size: int

    @classmethod
    def of(cls, run: RunConfig, split: PrivacyPartition) -> "Terms | None":
        """Return the terms of a run; None for one that asks for no protection."""
        privacy = run.privacy
        if privacy.channel != "dp":
            return None
        steps = Steps(sigma_of_run(run), privacy.sample_rate, steps_of_round(run))
        return cls(
            partition_sha256=split.sha256(),
            round=steps,
            max_grad_norm=privacy.max_grad_norm,
            delta=privacy.delta,
            epsilon=privacy.epsilon,
            rng=privacy.rng,
            shard_size=privacy.shard_size,
        )

    def check(self, declared: Declaration, *, rounds: int) -> None:
        """Accept a declaration.

        Args:
            declared: By a participant.
            rounds: Of this run that it has now been paid for, at least.

        Raises:
            PrivacyError: It differs from the terms, or claims less than the run alone has cost.
        """
        expected = {
            "partition_sha256": self.partition_sha256,
            "channel": "dp",
            "sigma": self.round.sigma,
            "sample_rate": self.round.sample_rate,
            "steps": self.round.count,
            "max_grad_norm": self.max_grad_norm,
            "delta": self.delta,
            "rng": self.rng,
            "accountant": version(),
        }
        for name, value in expected.items():
            if getattr(declared, name) != value:
                raise PrivacyError(
                    f"it declares {name} {str(getattr(declared, name))[:80]!r}; the run asks for "
                    f"{value!r}"
                )
        least = epsilon([self.round] * rounds, self.delta)
        if declared.charges < rounds or declared.epsilon < least - _ROUNDING:
            raise PrivacyError(
                f"it declares epsilon {declared.epsilon:.4f} for {declared.charges} charges; "
                f"{rounds} rounds of this run alone cost {least:.4f}"
            )
        if declared.epsilon > declared.cap + _ROUNDING:
            raise PrivacyError(
                f"its epsilon {declared.epsilon:.4f} is over its cap {declared.cap:g}"
            )
