"""One ``dp`` round at a participant: refuse, pay, train, declare, in this order."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from smdl_flower.config import RunConfig
from smdl_flower.errors import PrivacyError
from smdl_flower.privacy import noise
from smdl_flower.privacy.accounting import version
from smdl_flower.privacy.declaration import Declaration
from smdl_flower.privacy.entropy import Entropy, SeededEntropy, SystemEntropy
from smdl_flower.privacy.ledger import Ledger
from smdl_flower.privacy.noise import Mechanism
from smdl_flower.privacy.partition import PrivacyPartition
from smdl_flower.representation import Examples

LEDGER_VARIABLE = "SMDL_LEDGER_DIR"
CAP_VARIABLE = "SMDL_EPSILON_CAP"
OWN_LEDGER = "own-images.jsonl"


@dataclass(frozen=True)
class Instruction:
    """What the server asks for.

    Attributes:
        server_round: From 1.
        learning_rate: Of this round.
    """

    server_round: int
    learning_rate: float


def open_ledger(run: RunConfig, participant: int, node: Mapping[str, Any]) -> Ledger:
    """Return the ledger of a participant's data set.

    It lies in the node's ``ledger-dir`` or ``$SMDL_LEDGER_DIR``. The node's ``epsilon-cap`` or
    ``$SMDL_EPSILON_CAP`` caps a new one; else the run's epsilon does. Images that are dealt have
    ``SOURCE-PARTICIPANT.jsonl``. An institution's own (``data-dir``) have one ledger whatever the
    run, its source, the folder's path or the participant's number: none of these makes other
    images of them, and a new name would be a new budget. Other images need another ``ledger-dir``.

    Raises:
        PrivacyError: Nobody said where ledgers are kept, or the cap is no number.
    """
    place = node.get("ledger-dir") or os.environ.get(LEDGER_VARIABLE)
    if not place:
        raise PrivacyError(
            "no place for the privacy ledger; give the SuperNode a node config ledger-dir, or set "
            f"{LEDGER_VARIABLE}, to a directory that outlives it"
        )
    cap = node.get("epsilon-cap") or os.environ.get(CAP_VARIABLE) or run.privacy.epsilon
    try:
        number = float(cap)
    except ValueError:
        raise PrivacyError(f"epsilon-cap: {cap!r} is no number") from None
    name = f"{run.data.source}-{participant:06d}.jsonl"
    if node.get("data-dir"):
        name = OWN_LEDGER
    return Ledger(Path(str(place)).expanduser() / name, cap=number, delta=run.privacy.delta)


def train(
    run: RunConfig,
    split: PrivacyPartition,
    part: nn.Module,
    examples: Examples,
    *,
    instruction: Instruction,
    ledger: Ledger,
) -> Declaration:
    """Train with noise and return what may be said about it.

    Args:
        run: The run config.
        split: The partition that ``part`` was frozen by.
        part: What is trained, in place.
        examples: Of the participant.
        instruction: Of the server.
        ledger: Charged before anything is learned.

    Raises:
        PrivacyError: The promise could not be kept; nothing was paid.
        BudgetExhaustedError: The data set's budget is spent.
    """
    if run.privacy.delta * len(examples) >= 1.0:
        raise PrivacyError(
            f"privacy.delta {run.privacy.delta:g} is not below one over this participant's number "
            "of images; lower it"
        )
    noise.require_private(part, run.training.augment)
    mechanism = Mechanism.of(run)
    entropy = _entropy(run, instruction.server_round, ledger)
    account = ledger.charge(
        mechanism.steps, run=run.scenario, server_round=instruction.server_round
    )
    noise.train(
        part,
        examples,
        mechanism,
        run.training,
        learning_rate=instruction.learning_rate,
        entropy=entropy,
    )
    return Declaration(
        partition_sha256=split.sha256(),
        channel="dp",
        sigma=mechanism.steps.sigma,
        max_grad_norm=mechanism.max_grad_norm,
        sample_rate=mechanism.steps.sample_rate,
        steps=mechanism.steps.count,
        delta=account.delta,
        epsilon=account.spent(),
        cap=account.cap,
        charges=len(account.history),
        ledger_head=account.head,
        rng=entropy.kind,
        accountant=version(),
    )


def _entropy(run: RunConfig, server_round: int, ledger: Ledger) -> Entropy:
    if run.privacy.rng == "os":
        return SystemEntropy()
    label = f"{run.seed}/{server_round}/{ledger.name}".encode()
    return SeededEntropy(int.from_bytes(hashlib.sha256(label).digest()[:8], "big"))
