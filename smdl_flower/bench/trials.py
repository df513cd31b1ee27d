"""Try each row of a plan on customers and seeds: attack, measure, verify a file, write down."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smdl_flower import models, verifying, weights
from smdl_flower.attacks import catalogue
from smdl_flower.attacks.catalogue import ATTACKS, Stolen
from smdl_flower.bench import efficiency
from smdl_flower.bench.plan import BASE_MODEL, CONTROLS, NEW_MODEL, UNALTERED, Plan, Row
from smdl_flower.bench.record import Record, Result, Trace
from smdl_flower.bench.subject import Subject
from smdl_flower.config import DataConfig, Scalar
from smdl_flower.data import Images, load_test
from smdl_flower.errors import ConfigError, NotComparableError, SuspectFileError
from smdl_flower.evidence import Accusation, Verdict, versions
from smdl_flower.fingerprint import carriers, extraction
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.training import evaluate
from smdl_flower.weights import Weights

NEW_MODELS = 3  # freshly initialised ones, which are nobody's copy
OTHER_TASK = "another task"  # of which a thief has images
TAUGHT = "labelled images of another task"  # what a thief has who trains the model for it


@dataclass(frozen=True)
class Trial:
    """One thing to try."""

    row: Row
    guilty: tuple[str, ...]
    seed: int | None


def trials(subject: Subject, plan: Plan) -> list[Trial]:
    """Return all trials of a plan, in its order; the same every time."""
    return [
        Trial(row, guilty, seed)
        for row in plan.within(len(subject.customers)).rows
        for number, guilty in enumerate(_coalitions(subject.customers, row, plan.customers))
        for seed in _seeds(row, plan.seeds, plan.first_seed + number * plan.seeds)
    ]


def identity(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Return what results must share to stand in one table."""
    mark = subject.mark
    return {
        "scenario": subject.scenario,
        "model_id": subject.model.model_id,
        "run_sha256": subject.sha256,
        "marked_weights": mark.layout.size,
        "carrier_values": mark.chips.length if mark.chips else mark.layout.size,
        "customers": len(subject.customers),
        "customers_per_row": min(plan.customers, len(subject.customers)),
        "seeds": plan.seeds,
        "plan_sha256": plan.digest(),
        "max_false_accusation": DEFAULT_BOUND,
        "code_sha256": code_sha256(),
        "versions": versions(),
    }


def run(
    subject: Subject, todo: Sequence[Trial], record: Record
) -> Iterator[tuple[Trial, Weights | None]]:
    """Carry out what the record lacks.

    Yields:
        Each trial when its result is written, with what was leaked; None if the result was there
        already, or the attack was not possible.

    Raises:
        IntegrityError: Registry or vault were tampered with.
    """
    with tempfile.TemporaryDirectory(prefix="smdl-bench-") as name:
        for trial in todo:
            stolen = None
            if not record.has(trial.row, trial.guilty, trial.seed):
                result, stolen = _carry_out(subject, trial, Path(name))
                record.add(trial.row, _about(trial.row), result)
            yield trial, stolen


def _coalitions(customers: Sequence[str], row: Row, count: int) -> list[tuple[str, ...]]:
    """Each chosen customer with those that follow it; the same coalition is tried once."""
    if row.copies == 0:
        return [()]
    chosen = np.linspace(0, len(customers), min(count, len(customers)), endpoint=False).astype(int)
    members = [
        sorted((start + step) % len(customers) for step in range(row.copies)) for start in chosen
    ]
    return list(dict.fromkeys(tuple(customers[i] for i in group) for group in members))


def _seeds(row: Row, count: int, first: int) -> list[int] | list[None]:
    """The seeds of one coalition's trials; no two coalitions share any."""
    if row.attack == NEW_MODEL:
        return list(range(1, NEW_MODELS + 1))
    if row.attack in CONTROLS or "seed" in row.settings:
        return [None]
    return list(range(first, first + count)) if "seed" in _option_names(row.attack) else [None]


def _option_names(attack: str) -> set[str]:
    return {field.alias or name for name, field in ATTACKS[attack].options.model_fields.items()}


def _about(row: Row) -> dict[str, Any]:
    if row.attack in CONTROLS:
        return {"block": None, "lossless": row.attack == UNALTERED, "knows": None}
    attack = ATTACKS[row.attack]
    return {"block": attack.block, "lossless": attack.lossless, "knows": attack.knows}


def _carry_out(subject: Subject, trial: Trial, place: Path) -> tuple[Result, Weights | None]:
    copies = [subject.copy(customer) for customer in trial.guilty]
    before = float(np.mean([copy.accuracy for copy in copies])) if copies else None
    started = time.monotonic()
    try:
        stolen = _steal(subject, trial)
    except ConfigError as error:  # an attack that this model, or its images, do not allow
        return Result(trial.guilty, trial.seed, reason=f"not tried: {error}"), None
    seconds = _seconds_since(started)
    result = Result(
        trial.guilty,
        trial.seed,
        accuracy_before=None if _for_other_task(trial.row) else before,
        accuracy_after=evaluate(stolen.model, _test_images(subject, trial.row)).accuracy,
        attack_seconds=seconds,
    )
    suspect = place / "suspect.safetensors"
    weights.write(suspect, stolen.weights, subject.model.spec.to_metadata(), replace=True)
    result = _measured(subject, _judged(subject, result, suspect), stolen.weights)
    return result, stolen.weights


def _steal(subject: Subject, trial: Trial) -> Stolen:
    row, spec = trial.row, subject.model.spec
    if row.attack == NEW_MODEL:
        model = models.build(spec, seed=1000 + (trial.seed or 0))
        return Stolen(models.to_weights(model), model)
    if row.attack == BASE_MODEL:
        return Stolen.fitting(spec, subject.model.weights)
    copies = [subject.copy(customer).weights for customer in trial.guilty]
    if row.attack == UNALTERED:
        return Stolen.fitting(spec, copies[0])
    names = _option_names(row.attack)
    given: Mapping[str, Any] = {**_data_settings(subject, row), "seed": trial.seed}
    usual = {key: value for key, value in given.items() if key in names and value is not None}
    return catalogue.run(row.attack, copies, spec, {**usual, **row.settings})


def _for_other_task(row: Row) -> bool:
    return row.attack in ATTACKS and ATTACKS[row.attack].knows == TAUGHT


def _data_settings(subject: Subject, row: Row) -> Mapping[str, Scalar]:
    """Where the thief's images come from, as an attack's settings say it."""
    data = subject.data
    if OTHER_TASK in ATTACKS[row.attack].knows:
        return {"data": "mnist-5k" if data.source == "digits" else "digits"}
    return {"data": data.source, "data-dir": data.directory}


def _test_images(subject: Subject, row: Row) -> Images:
    """Images of the task that the stolen model is for."""
    if not _for_other_task(row):
        return subject.images
    settings = {**_data_settings(subject, row), **row.settings}
    size = subject.model.spec.image_size
    return load_test(DataConfig.of_one_party(str(settings["data"]), "", size))


def _judged(subject: Subject, result: Result, suspect: Path) -> Result:
    started = time.monotonic()
    try:
        verdict = verifying.verify(subject.home, suspect)
    except (NotComparableError, SuspectFileError) as error:
        return dataclasses.replace(
            result,
            exit_code=error.exit_code,
            reason=str(error).replace(str(suspect), "suspect"),
            verify_seconds=_seconds_since(started),
        )
    right = [a for a in verdict.accused if _is_right(a, subject, result)]
    wrong = [a for a in verdict.accused if not _is_right(a, subject, result)]
    return dataclasses.replace(
        result,
        traces=tuple(_trace(accusation) for accusation in right),
        wrongly_named=tuple(f"{a.customer} (model {a.model_id})" for a in wrong),
        innocents=max(0, len(verdict.carrier_scores) - len(result.guilty)),
        exit_code=verdict.exit_code,
        alignment=verdict.alignment,
        bit_error_rate=_bit_error_rate(subject, verdict, result),
        highest_unnamed_score=verdict.highest_unnamed_score,
        verify_seconds=_seconds_since(started),
    )


def _measured(subject: Subject, result: Result, stolen: Weights) -> Result:
    """What a verdict does not say: scores of the guilty who are not named, the attack's noise."""
    if not result.guilty or result.alignment is None:
        return result
    try:
        suspect = subject.in_base_form(stolen, result.alignment)
        reading = extraction.read(subject.mark, suspect)
    except NotComparableError:  # it was read as a copy of another base model
        return result
    campaign = subject.home.campaign(subject.model)
    scores = {c: carriers.score(campaign.customer(c), reading.direction) for c in result.guilty}
    copies = [subject.copy(customer).weights for customer in result.guilty]
    rho = efficiency.noise(subject.mark, copies, suspect)
    return dataclasses.replace(
        result, guilty_scores=scores, noise=rho if math.isfinite(rho) else None
    )


def _is_right(accusation: Accusation, subject: Subject, result: Result) -> bool:
    return accusation.customer in result.guilty and accusation.model_id == subject.model.model_id


def _trace(accusation: Accusation) -> Trace:
    strongest = accusation.witnesses[0]
    scores = [w.score for w in accusation.witnesses if w.evidence == "carrier"]
    return Trace(
        customer=accusation.customer,
        evidence=strongest.evidence,
        log10_p=strongest.log10_p,
        threshold=strongest.threshold,
        carrier_score=scores[0] if scores else None,
    )


def _bit_error_rate(subject: Subject, verdict: Verdict, result: Result) -> float | None:
    """Share of bits that differ from the customer's; one copy only."""
    if len(result.guilty) != 1:
        return None
    if verdict.payload.best_match == result.guilty[0]:
        return verdict.payload.bit_error_rate
    expected, found = subject.issued_bits(result.guilty[0]), verdict.payload.bits
    if len(expected) != len(found):  # read as a copy of another base model
        return None
    return sum(a != b for a, b in zip(expected, found, strict=True)) / len(expected)


def _seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 3)
