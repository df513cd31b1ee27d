"""Evidence packages with one change each, for a judge to refuse.

The judge knows the owner's published key and the newest digest that was published before the leak.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.judging_suspects import Run
from benchmarks.tampering_by_others import by_others
from benchmarks.tampering_by_owner import by_the_owner
from benchmarks.tampering_kinds import Change, Tampered
from benchmarks.tampering_material import Material, materials, signed_again
from smdl_flower import judging
from smdl_flower.errors import SmdlError

ACCEPTED = "ACCEPTED"


@dataclass(frozen=True)
class Refusal:
    """What a judge did with one.

    Attributes:
        name: What was changed.
        group: Of which kind.
        how: The error, ``not confirmed``, or ``ACCEPTED``.
        why: What the judge said.
    """

    name: str
    group: str
    how: str
    why: str

    @property
    def refused(self) -> bool:
        """Whether the exit code is not 0."""
        return self.how != ACCEPTED


def tried(
    run: Run, place: Path, *, every: int = 1, tell: Callable[[object], None]
) -> Iterator[Refusal]:
    """Tamper with evidence about a run's copies, and yield what a judge does.

    Raises:
        RuntimeError: The control fails: good evidence is not accepted.
    """
    for material in materials(run, place):
        for change in CONTROLS:
            control = Tampered("control", "control", change(material), material)
            outcome = judged(control, place / "control")
            if outcome.refused:
                raise RuntimeError(f"good evidence is not accepted: {outcome.why}")
        for number, tampered in enumerate(tamperings(material)):
            if number % every == 0:
                outcome = judged(tampered, place / "tampered")
                tell(outcome)
                yield outcome


def tamperings(material: Material) -> Iterator[Tampered]:
    """Yield all changes to one package."""
    yield from by_others(material)
    yield from by_the_owner(material)


def judged(tampered: Tampered, place: Path) -> Refusal:
    """Carry out one change and have it judged."""
    material = tampered.about
    shutil.copytree(material.folder, place)
    try:
        tampered.change(place)
        judgement = judging.judge(place, tampered.suspect or material.suspect, trust=material.trust)
        how = ACCEPTED if judgement.valid else "not confirmed"
        why = "" if judgement.valid else str(judgement.confirmations[0].strongest)
    except SmdlError as error:
        how, why = type(error).__name__, str(error)
    finally:
        shutil.rmtree(place)
    name = f"{material.kind}: {tampered.name}"
    return Refusal(name, tampered.group, how, why.replace(str(place), "EVIDENCE"))


def _unchanged(_: Material) -> Change:
    return lambda folder: None


def _only_signed_again(material: Material) -> Change:
    return lambda folder: signed_again(material, folder)


CONTROLS = (_unchanged, _only_signed_again)
