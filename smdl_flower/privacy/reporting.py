"""The document ``privacy.json``: what may be claimed about a run, and what not."""

from collections.abc import Mapping, Sequence
from typing import Any

from smdl_flower.config import RunConfig
from smdl_flower.privacy.partition import PrivacyPartition

FORMAT = "smdl-privacy/2"

UNIT = "one image, added or removed; k images of one person: k times epsilon, at a larger delta"
TRUST = (
    "Each participant runs this code and keeps its ledger; the server checks what is declared and "
    "cannot see what was done.",
    "The server may be curious and may collude with all other participants: each adds all noise.",
    "Participants hold different images; one that two of them hold costs the sum of epsilons.",
    "Neither public weights nor any setting of the run was chosen with the participants' images.",
    "The images that copies are checked on are public.",
    "The operating system's random numbers cannot be predicted.",
)
NOT_COVERED = (
    "That an institution took part, and the public number of images it is counted with.",
    "Groups of images: of one person, one event, one device.",
    "What is learned about a population, which is not private.",
    "Participants that send wrong updates.",
    "What a participant's failure tells: its error message, its silence, the time it takes.",
)

Declared = Mapping[str, Sequence[Mapping[str, Any]]]


def document(
    run: RunConfig, split: PrivacyPartition, declared: Declared, rounds: int
) -> dict[str, Any]:
    """Return what ``privacy.json`` says about a run.

    Args:
        run: The run config.
        split: Its partition.
        declared: Participant -> a line for each round whose update was used.
        rounds: Completed.
    """
    common = {
        "format": FORMAT,
        "policy": run.privacy.policy,
        "channel": run.privacy.channel,
        "partition_sha256": split.sha256(),
        "partition": split.to_json(),
        "participants": {k: list(v) for k, v in sorted(declared.items())},
        "training_marked": run.marking.enabled,
    }
    if run.privacy.channel == "clear":
        reason = "channel 'clear' sends every update to the server unprotected"
        return {**common, "epsilon": None, "checks": [], "claim": f"No DP claim: {reason}"}
    return {**common, **_private(run, declared, rounds)}


def _private(run: RunConfig, declared: Declared, rounds: int) -> dict[str, Any]:
    from smdl_flower.privacy import accounting  # noqa: PLC0415 - opacus takes seconds

    checks = _checks(run, declared, rounds)
    failed = [check["check"] for check in checks if not check["passed"]]
    last = [lines[-1]["epsilon"] for lines in declared.values() if lines]
    spent = None if failed else max(last)
    steps = accounting.Steps(
        accounting.sigma_of_run(run), run.privacy.sample_rate, accounting.steps_of_round(run)
    )
    complete = rounds == run.federation.rounds
    return {
        "unit": UNIT,
        "mechanism": {
            "sigma": steps.sigma,
            "max_grad_norm": run.privacy.max_grad_norm,
            "sample_rate": steps.sample_rate,
            "steps_per_round": steps.count,
            "rounds": run.federation.rounds,
            "spare_rounds": run.privacy.spare_rounds,
            "shard_size": run.privacy.shard_size,
            "averaging": run.privacy.averaging,
        },
        "delta": run.privacy.delta,
        "epsilon_asked": run.privacy.epsilon,
        "accountant": accounting.version(),
        "rng": run.privacy.rng,
        "epsilon": spent,
        "epsilon_prv_of_this_run": accounting.epsilon_prv([steps] * rounds, run.privacy.delta)
        if complete and not failed
        else None,
        "checks": checks,
        "claim": _claim(run, spent, failed),
        "trust": list(TRUST),
        "not_covered": list(NOT_COVERED),
    }


def _checks(run: RunConfig, declared: Declared, rounds: int) -> list[dict[str, Any]]:
    lines = [line for of_one in declared.values() for line in of_one]
    answered = {line["round"] for line in lines}
    results = {
        "noise and sampling come from the operating system": run.privacy.rng == "os"
        and all(line["rng"] == "os" for line in lines),
        "every round's updates came with a declaration": rounds > 0
        and answered >= set(range(1, rounds + 1)),
        "no ledger is over its cap": all(line["epsilon"] <= line["cap"] + 1e-9 for line in lines),
        "no ledger has spent more than the run asks for": all(
            line["epsilon"] <= run.privacy.epsilon + 1e-9 for line in lines
        ),
        "delta is below one over the public number of images": run.privacy.delta
        * run.privacy.shard_size
        < 1.0,
        "no metric of private images was asked for": run.federation.fraction_evaluate == 0.0,
    }
    return [{"check": name, "passed": bool(passed)} for name, passed in results.items()]


def _claim(run: RunConfig, spent: float | None, failed: Sequence[str]) -> str:
    if spent is None:
        what = "simulation only, a seed decides the noise" if run.privacy.rng == "seeded" else ""
        return f"No DP claim: {what or 'not shown that ' + failed[0]}"
    return (
        f"For each image of a participant, everything that the server, other participants and all "
        f"customers together were sent is differentially private with epsilon {spent:.3f} at delta "
        f"{run.privacy.delta:g}"
    )
