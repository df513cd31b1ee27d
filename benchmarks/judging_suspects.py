"""A hundred suspects for a verifier and a judge: copies in every state, and models of nobody."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from benchmarks import blackbox_thieves as thieves
from smdl_flower import issuing, models, weights
from smdl_flower.attacks import catalogue, collusion
from smdl_flower.attacks.catalogue import ATTACKS
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.config import FingerprintConfig, Scalar
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

SIZES = (2, 3, 5, 8)  # of coalitions
# Training is cut short: what it leaves of a mark is measured elsewhere (docs/robustness.md).
SHORT: dict[str, Scalar] = {"epochs": 1, "images": 200}

State = dict[str, torch.Tensor]
Save = Callable[[State, Path], None]


@dataclass(frozen=True)
class Run:
    """A run's copies and where they come from.

    Attributes:
        home: Of the owner.
        model: The base model.
        copies: By customer.
    """

    home: OwnerHome
    model: BaseModel
    copies: dict[str, Weights]

    @classmethod
    def open(cls, home: OwnerHome, folder: Path) -> "Run":
        """Open a run's folder."""
        files = sorted((folder / "copies").glob("*.safetensors"))
        copies = {path.stem: weights.read(path).weights for path in files}
        return cls(home, home.base_models()[0], copies)

    @property
    def customers(self) -> tuple[str, ...]:
        """Who was issued a copy."""
        return tuple(self.copies)


@dataclass(frozen=True)
class Suspect:
    """One of the hundred.

    Attributes:
        name: What was done.
        group: What kind of suspect.
        make: Writes it into a folder and returns the file, or returns what can be asked.
    """

    name: str
    group: str
    make: Callable[[Path], "Path | Predictor"]


def suspects(run: Run) -> list[Suspect]:
    """Return all of them, those of weights first; those that are asked if there are queries."""
    of_weights = [*_unaltered(run), *_attacked(run), *_formats(run), *_nobodys(run)]
    return [*of_weights, *(_asked(run) if run.model.queries else ())]


def _unaltered(run: Run) -> Iterator[Suspect]:
    for customer in run.customers[:5]:
        yield Suspect(f"copy of {customer}", "unaltered", _written(run, run.copies[customer]))


def _attacked(run: Run) -> Iterator[Suspect]:
    """Each attack of the catalogue once, customers and sizes of coalitions in turn."""
    turn, sizes = itertools.cycle(run.customers), itertools.cycle(SIZES)
    groups = {"A": "altered", "B": "same function", "C": "coalition"}
    for name, attack in ATTACKS.items():
        size = 1 if attack.copies == 1 else max(attack.copies, next(sizes))
        guilty = [next(turn) for _ in range(min(size, len(run.customers)))]
        label = name if attack.copies == 1 else f"{name} of {len(guilty)}"
        yield Suspect(label, groups[attack.block], _attack(run, name, guilty))


def _attack(run: Run, name: str, guilty: Sequence[str]) -> Callable[[Path], Path]:
    known = {f.alias or n for n, f in ATTACKS[name].options.model_fields.items()}
    settings = {key: value for key, value in SHORT.items() if key in known}

    def make(place: Path) -> Path:
        copies = [run.copies[customer] for customer in guilty]
        stolen = catalogue.run(name, copies, run.model.spec, settings).weights
        return _written(run, stolen)(place)

    return make


def _formats(run: Run) -> Iterator[Suspect]:
    """One copy, half of it pruned, as it is passed around."""
    copy, spec = run.copies[run.customers[-1]], run.model.spec

    def saved(save: Save) -> Callable[[Path], Path]:
        def make(place: Path) -> Path:
            pruned = catalogue.run("prune", [copy], spec, {"fraction": 0.5}).weights
            save({n: torch.from_numpy(a.copy()) for n, a in pruned.items()}, place / "leak")
            return place / "leak"

        return make

    def scripted(state: State, path: Path) -> None:
        network = models.from_weights(spec, {n: t.numpy() for n, t in state.items()})
        image = torch.zeros(1, spec.channels, spec.image_size, spec.image_size)
        torch.jit.save(torch.jit.trace(network, image), str(path))

    ways: dict[str, Save] = {
        "state dict": torch.save,
        "checkpoint, prefixes, fp16": _save_checkpoint,
        "Hugging Face folder": _save_folder,
        "TorchScript": scripted,
        "bf16": _save_bfloat16,
    }
    for name, save in ways.items():
        yield Suspect(name, "format", saved(save))


def _save_checkpoint(state: State, path: Path) -> None:
    wrapped = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, path)


def _save_folder(state: State, path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    safetensors.torch.save_file(state, path / "model.safetensors")


def _save_bfloat16(state: State, path: Path) -> None:
    safetensors.torch.save_file({n: t.bfloat16() for n, t in state.items()}, path)


def _nobodys(run: Run) -> Iterator[Suspect]:
    spec, base = run.model.spec, run.model.weights
    rng = np.random.default_rng(1)
    noise = {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in base.items()}
    new = [models.to_weights(models.build(spec, seed=seed)) for seed in (1000, 1001)]
    for name, model in (
        ("base model", base),
        ("new model", new[0]),
        ("another new model", new[1]),
        ("noise", noise),
    ):
        yield Suspect(name, "nobody's", _written(run, model))
    yield Suspect("another owner's copy", "nobody's", lambda place: _foreign(run, place))


def _asked(run: Run) -> Iterator[Suspect]:
    spec, (first, second, third, *_) = run.model.spec, run.customers
    served, copies = thieves.served, run.copies

    def short(name: str, copy: Weights) -> Weights:
        return catalogue.run(name, [copy], spec, SHORT).weights

    def altered(alter: thieves.Alteration) -> Callable[[Path], Predictor]:
        return lambda _: served(alter(copies[second], spec), spec)

    mean = collusion.average([copies[first], copies[second]])
    nobodys = models.to_weights(models.build(spec, seed=1000))
    ways: dict[str, Callable[[Path], Predictor]] = {
        "labels": lambda _: served(copies[first], spec),
        "probabilities": lambda _: served(copies[second], spec, decimals=6),
        "probabilities of one decimal": lambda _: served(copies[third], spec, decimals=1),
        **{
            f"labels, {name}": altered(alter)
            for name, alter in thieves.ALTERATIONS.items()
            if name != "unaltered"
        },
        "labels, fine-tuned": lambda _: served(short("fine-tune", copies[third]), spec),
        "labels, mean of two": lambda _: served(mean, spec),
        "majority of three": lambda _: thieves.ensemble(
            [copies[c] for c in (first, second, third)], spec, "majority"
        ),
        "base model": lambda _: served(run.model.weights, spec),
        "new model": lambda _: served(nobodys, spec),
        "one class": lambda _: lambda images: np.full(len(images), 3),
        "another owner's copy": lambda place: served(
            weights.read(_foreign(run, place)).weights, spec
        ),
    }
    for name, make in ways.items():
        yield Suspect(name, "answers", make)


def _written(run: Run, model: Weights) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        path = place / "suspect.safetensors"
        weights.write(path, model, run.model.spec.to_metadata())
        return path

    return make


def _foreign(run: Run, place: Path) -> Path:
    foreign_run(run, place / "foreign")
    return place / "foreign" / "copies" / f"{run.customers[0]}.safetensors"


def foreign_run(run: Run, place: Path) -> Run:
    """Return another owner's, who issued one copy of the very same base model."""
    home = OwnerHome.create(place / "home")
    home.registry.add_customers(run.customers)
    config = FingerprintConfig(
        where="server",
        code_length=run.model.code.length,
        code=run.model.code.kind,
        code_coalition=run.model.code.coalition,
        strength=run.model.strength,
        max_accuracy_drop=1.0,
        queries=0,
        query_pools=1,
        imprint_images=False,
        demo_customers=0,
    )
    gate = FidelityGate(None, 1.0)
    campaign = issuing.open_campaign(home, run.model.spec, run.model.weights, config, gate)
    (result,) = issuing.issue(home, campaign, run.customers[:1], place / "copies")
    if result.path is None:
        raise RuntimeError(result.reason)
    return Run.open(home, place)
