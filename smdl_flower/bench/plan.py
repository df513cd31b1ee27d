"""What a bench tries: attacks with their settings, numbers of copies, customers and seeds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from smdl_flower.attacks.catalogue import ATTACKS
from smdl_flower.config import Scalar
from smdl_flower.errors import ConfigError

Settings = Mapping[str, Scalar]

# The copy as issued, the base model and new models: without them a table of attacks says little.
UNALTERED, BASE_MODEL, NEW_MODEL = "unaltered", "base-model", "new-model"
CONTROLS = (UNALTERED, BASE_MODEL, NEW_MODEL)

COALITIONS = (2, 5, 10, 20, 50)

# Strengths worth more than an attack's defaults; an attack that is not here is tried with those.
STRENGTHS: Mapping[str, Sequence[Settings]] = {
    "prune": [{"fraction": f} for f in (0.2, 0.5, 0.8, 0.95)],
    "prune-global": [{"fraction": f} for f in (0.5, 0.8)],
    "prune-channels": [{"fraction": f} for f in (0.1, 0.3)],
    "remove-channels": [{"fraction": f} for f in (0.1, 0.3)],
    "quantize": [{"bits": b} for b in (8, 4, 3, 2)],
    "quantize-channels": [{"bits": b} for b in (4, 2)],
    "noise": [{"level": s} for s in (0.1, 0.3, 0.6)],
    "jam": [{"level": s} for s in (0.25, 0.5, 1.0, 2.0)],
    "overwrite": [{"times": t} for t in (1, 2, 5)],
    "fine-tune": [{"epochs": 30, "learning-rate": r} for r in (0.001, 0.01, 0.03)],
    "fine-tune-adam": [{"epochs": 30}],
    "fine-tune-last": [{"epochs": 30}],
    "prune-fine-tune": [{"fraction": f} for f in (0.5, 0.8)],
    "average-fine-tune": [{"epochs": 10}],
}

_QUICK: Sequence[tuple[str, Settings, int]] = (
    ("prune", {"fraction": 0.5}, 1),
    ("prune", {"fraction": 0.8}, 1),
    ("quantize", {"bits": 4}, 1),
    ("quantize", {"bits": 2}, 1),
    ("noise", {"level": 0.3}, 1),
    ("jam", {"level": 1.0}, 1),
    ("overwrite", {"times": 2}, 1),
    ("permute-rescale", {}, 1),
    ("fold", {}, 1),
    ("obfuscate", {}, 1),
    ("factorise", {}, 1),
    ("rename", {}, 1),
    ("fine-tune", {"epochs": 3}, 1),
    ("distill", {"images": 1000, "epochs": 10}, 1),
    ("average", {}, 2),
    ("average", {}, 50),
    ("average-noise", {}, 5),
    ("median", {}, 5),
    ("minimum", {}, 5),
    ("interleave", {}, 5),
    ("modneg", {}, 5),
    ("randneg", {}, 5),
    ("outlier", {}, 5),
)


@dataclass(frozen=True)
class Row:
    """One line of the table: an attack, how it is set and how many copies it takes.

    Attributes:
        attack: Of the catalogue, or a control.
        settings: Those that are not the attack's defaults.
        copies: Of different customers; 0 for a model that is nobody's copy.
    """

    attack: str
    settings: Settings = field(default_factory=dict)
    copies: int = 1


@dataclass(frozen=True)
class Plan:
    """All of it.

    Attributes:
        rows: Controls first.
        customers: How many customers each row is tried on.
        seeds: How often, where an attack draws at random; with other seeds for each customer.
        first_seed: The others follow it.
    """

    rows: tuple[Row, ...]
    customers: int
    seeds: int
    first_seed: int = 1

    def digest(self) -> str:
        """Return the SHA-256 of the plan, hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def within(self, copies: int) -> "Plan":
        """Return the plan with coalitions no larger than the run's number of copies.

        Example:
            >>> rows = tuple(Row("average", {}, size) for size in (2, 5, 10, 20))
            >>> [row.copies for row in Plan(rows, 1, 1).within(8).rows]
            [2, 5, 8]
        """
        rows: list[Row] = []
        for row in self.rows:
            clipped = replace(row, copies=min(row.copies, copies))
            if clipped not in rows and clipped.copies >= _least(row):
                rows.append(clipped)
        return replace(self, rows=tuple(rows))


def full() -> Plan:
    """Return the plan with every attack of the catalogue."""
    rows = [row for name in ATTACKS for row in _rows_of(name)]
    return Plan((*_controls(), *rows), customers=5, seeds=3)


def quick() -> Plan:
    """Return the plan of a few minutes: one customer, mostly attacks that take no images."""
    return Plan((*_controls(), *(Row(*row) for row in _QUICK)), customers=1, seeds=1)


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """Return the plan's controls and its rows of these attacks; all rows if none is named.

    An attack that the plan leaves out is tried with its defaults.

    Raises:
        ConfigError: No such attack.

    Example:
        >>> [row.attack for row in only(quick(), ["average"]).rows if row.attack not in CONTROLS]
        ['average', 'average']
    """
    for name in names:
        if name not in ATTACKS:
            raise ConfigError(f"--attack {name}: unknown; expected one of {', '.join(ATTACKS)}")
    if not names:
        return plan
    wanted = [row for row in plan.rows if row.attack in (*CONTROLS, *names)]
    missing = [name for name in dict.fromkeys(names) if all(r.attack != name for r in plan.rows)]
    return replace(plan, rows=(*wanted, *(Row(n, {}, ATTACKS[n].copies) for n in missing)))


def _controls() -> tuple[Row, ...]:
    return Row(UNALTERED), Row(BASE_MODEL, copies=0), Row(NEW_MODEL, copies=0)


def _rows_of(name: str) -> list[Row]:
    attack = ATTACKS[name]
    sizes = [s for s in COALITIONS if s >= attack.copies] if attack.copies > 1 else [1]
    return [Row(name, settings, size) for settings in STRENGTHS.get(name, [{}]) for size in sizes]


def _least(row: Row) -> int:
    return ATTACKS[row.attack].copies if row.attack in ATTACKS else row.copies
