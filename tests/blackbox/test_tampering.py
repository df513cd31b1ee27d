"""``python -m benchmarks.judging`` in small: judge and verifier agree; no change is accepted."""

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import json_fields, judging, tampering
from benchmarks.judging_suspects import Run, Suspect, suspects
from benchmarks.tampering import tamperings
from benchmarks.tampering_by_owner import OWN_WORDS
from benchmarks.tampering_kinds import Change, Tampered, on_file
from benchmarks.tampering_material import Material, materials, signed_as_it_is
from smdl_flower.home import OwnerHome
from smdl_flower.weights import Weights
from tests.blackbox.conftest import CUSTOMERS

# One of each kind that takes no training; the others are the benchmark's.
SUSPECTS = (
    *("copy of bank-a", "prune", "permute-rescale", "state dict"),
    *("average of 2", "modneg of 3", "base model", "noise", "another owner's copy"),
    *("labels", "probabilities of one decimal", "labels, mean of two", "one class"),
)
GROUPS = 10


@pytest.fixture(scope="module")
def run(
    asked_home: OwnerHome,
    asked_copies: dict[str, Weights],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Its home may be asked and disclosed from."""
    place = tmp_path_factory.mktemp("run") / "home"
    shutil.copytree(asked_home.path, place)
    home = OwnerHome.open(place)
    return Run(home, home.base_models()[0], asked_copies)


@pytest.fixture(scope="module")
def good(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Material]:
    return materials(run, tmp_path_factory.mktemp("good"))


def chosen(run: Run) -> list[Suspect]:
    return [s for s in suspects(run) if s.name in SUSPECTS]


def test_the_judge_agrees_with_the_verifier_on_every_kind_of_suspect(
    run: Run, tmp_path: Path
) -> None:
    found = []
    for number, suspect in enumerate(chosen(run)):
        (tmp_path / str(number)).mkdir()
        found.append(judging.agreement(run, suspect, tmp_path / str(number)))
    assert {a.suspect for a in found} == set(SUSPECTS)
    assert [a for a in found if not a.agree] == []
    named = [a for a in found if a.evidence]
    assert len(named) >= 8
    assert all(set(a.verified) <= set(CUSTOMERS) for a in named)
    assert {a.group for a in found if not a.evidence} == {"nobody's", "answers"}


def some_of(everything: Sequence[Tampered], most: int) -> list[Tampered]:
    """Of each group a few, spread over it."""
    groups = defaultdict(list)
    for tampered in everything:
        groups[tampered.group].append(tampered)
    return [t for of in groups.values() for t in of[:: -(-len(of) // most)]]


@pytest.mark.parametrize("kind", ["file", "answers"])
def test_changes_of_every_kind_are_refused(good: list[Material], tmp_path: Path, kind: str) -> None:
    (material,) = (m for m in good if m.kind == kind)
    everything = list(tamperings(material))
    assert len(everything) > 250
    assert len({t.name for t in everything}) == len(everything)
    some = some_of(everything, most=6)
    outcomes = [tampering.judged(t, tmp_path / "tampered") for t in some]
    assert [o for o in outcomes if not o.refused] == []
    assert len({o.group for o in outcomes}) == GROUPS - (kind == "answers")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "answers"])
def test_all_changes_are_refused(good: list[Material], tmp_path: Path, kind: str) -> None:
    (material,) = (m for m in good if m.kind == kind)
    outcomes = (tampering.judged(t, tmp_path / "tampered") for t in tamperings(material))
    assert [o for o in outcomes if not o.refused] == []


def test_the_control_unchanged_and_signed_again_is_accepted(
    good: list[Material], tmp_path: Path
) -> None:
    for material in good:
        for change in tampering.CONTROLS:
            control = Tampered("control", "control", change(material), material)
            assert tampering.judged(control, tmp_path / "control").how == tampering.ACCEPTED


HOSTILE: tuple[object, ...] = (
    *(None, True, 0, -1, 10**400, 1e400, float("nan"), "", "x" * 9, [], [[]], {}, {"a": 1}),
)


def hostile(material: Material) -> list[Tampered]:
    """Every field of what the owner signs, with values of every kind."""
    found = []
    for name in ("verdict.json", material.opened, "answers.json"):
        for path in material.folder.rglob(name):
            place = path.relative_to(material.folder).as_posix()
            for where in places(json.loads(path.read_bytes())):
                for value in HOSTILE:
                    put = on_file(place, json_fields.editing(partial(put_into, where, value)))
                    both = partial(changed_and_signed, material, put)
                    title = f"{name}: {json_fields.words(where)} = {str(value)[:9]}"
                    found.append(Tampered(title, name, both, material))
    return found


def places(document: Any) -> list[tuple[str | int, ...]]:
    """Where the values are, and where lists and objects are."""
    return sorted(
        {w[:n] for w in json_fields.leaves(document) for n in range(1, len(w) + 1)}, key=str
    )


def put_into(where: tuple[str | int, ...], value: object, document: Any) -> None:
    for step in where[:-1]:
        document = document[step]
    document[where[-1]] = value


def changed_and_signed(material: Material, change: Change, folder: Path) -> None:
    change(folder)
    signed_as_it_is(material, folder)


@pytest.mark.parametrize("kind", ["file", "answers"])
def test_whatever_is_signed_ends_in_a_judgement_or_our_own_error(
    good: list[Material], tmp_path: Path, kind: str
) -> None:
    (material,) = (m for m in good if m.kind == kind)
    everything = hostile(material)
    assert len(everything) > 500
    for tampered in everything[:: len(everything) // 12]:
        tampering.judged(tampered, tmp_path / "hostile")  # any other error fails


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "answers"])
def test_all_that_is_signed_ends_in_a_judgement_or_our_own_error(
    good: list[Material], tmp_path: Path, kind: str
) -> None:
    (material,) = (m for m in good if m.kind == kind)
    for tampered in hostile(material):
        tampering.judged(tampered, tmp_path / "hostile")


def test_another_value_is_another() -> None:
    values: list[object] = [True, 0, 7, 304, 0.0, -9829.7, 1e-6, "", "ab12", "f", "words", None, []]
    for value in values:
        assert json_fields.other(value) != value


def test_only_what_no_judge_can_compute_is_left_to_the_owner(good: list[Material]) -> None:
    changed = {t.name for m in good for t in tamperings(m) if t.group == "verdict, signed again"}
    for name in ("suspect/sha256", "customers", "payload/bits", "accused/0/log10_p", "alignment"):
        assert f"verdict: {name}" in changed
    assert not any(name.startswith(tuple(f"verdict: {w}" for w in OWN_WORDS)) for name in changed)
