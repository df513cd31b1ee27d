"""What differentially private training reaches and costs: choose settings, then measure.

    python -m benchmarks.private_training select        # on a split of the training images
    python -m benchmarks.private_training measure OUT   # the scenarios, three seeds, test images
    python -m benchmarks.private_training cifar10 JPEGS OUT   # on folders train/ and test/
    python -m benchmarks.private_training cost          # a noised step against a plain one

``select`` never sees a test image: it holds 800 of the 4,000 training images back, deals the others
to five participants of 640, and trains as the client app does, one noised step a round. ``measure``
runs the scenarios as they are, with the inline engine.
"""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from smdl_flower import config, data, models, training
from smdl_flower.cli.main import run as smdl
from smdl_flower.flower.averaging import Averaging
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import noise
from smdl_flower.privacy.entropy import SeededEntropy, SystemEntropy
from smdl_flower.privacy.noise import Mechanism
from smdl_flower.representation import Features, behind_front

ROOT = Path(__file__).parents[1]
PARTICIPANTS = 5
MEASURED = {
    "no-privacy": [],
    "private-eps8": [],
    "private-eps3": [],
    "private-eps3 dirichlet": ["sharding=dirichlet", "dirichlet-alpha=0.5"],
}


def scenario(name: str, **changes: config.Scalar) -> config.RunConfig:
    """A scenario's run config, with changes."""
    flat = config.merge(
        config.load_defaults(ROOT), config.load_scenario(ROOT / "scenarios" / f"{name}.toml")
    )
    return config.parse({**flat, **changes})


def features(run: config.RunConfig) -> Features:
    """What the front makes of all training images."""
    train = data.load_split(run.data).train
    images = train.load(np.arange(len(train.labels)))
    spec = ModelSpec.for_images(run.model, images.pixels, images.classes)
    examples = behind_front(models.build(spec, seed=run.seed), images)[1]
    assert isinstance(examples, Features)
    return examples


def federated(run: config.RunConfig, shards: list[Features], held: Features, seed: int) -> float:
    """Validation accuracy of the released model."""
    mechanism, entropy = Mechanism.of(run), SeededEntropy(seed)
    head = torch.nn.Linear(held.values.shape[1], 10)
    weights = {"w": np.zeros_like(head.weight.detach().numpy()), "b": np.zeros(10, np.float32)}
    averaging = Averaging(run.privacy.averaging, run.federation.rounds)
    released = weights
    for number in range(1, run.federation.rounds + 1):
        ends = []
        for shard in shards:
            head.load_state_dict(
                {
                    k: torch.from_numpy(weights[v].copy())
                    for k, v in (("weight", "w"), ("bias", "b"))
                }
            )
            rate = training.scheduled_rate(run.training, number, run.federation.rounds)
            noise.train(head, shard, mechanism, run.training, learning_rate=rate, entropy=entropy)
            ends.append((head.weight.detach().numpy().copy(), head.bias.detach().numpy().copy()))
        weights = {"w": np.mean([w for w, _ in ends], 0), "b": np.mean([b for _, b in ends], 0)}
        released = averaging.update(number, weights)
    logits = held.values.numpy() @ released["w"].T + released["b"]
    return float((logits.argmax(1) == held.labels.numpy()).mean())


def select() -> None:
    base = scenario("private-eps3")
    everything = features(base)
    order = np.random.default_rng(123).permutation(len(everything))
    parts = np.array_split(order[800:], PARTICIPANTS)
    pieces = [Features(everything.values[p], everything.labels[p]) for p in parts]
    held = Features(everything.values[order[:800]], everything.labels[order[:800]])
    for epsilon in (3.0, 8.0):
        for rounds in (40, 60, 100):
            for norm, rate in ((0.1, 150.0), (0.1, 250.0), (0.1, 400.0), (0.25, 100.0)):
                run = scenario(
                    "private-eps3",
                    **{
                        "privacy.epsilon": epsilon,
                        "num-server-rounds": rounds,
                        "learning-rate": rate,
                        "privacy.max-grad-norm": norm,
                        "privacy.shard-size": 640,
                    },
                )
                found = [100 * federated(run, pieces, held, seed) for seed in range(2)]
                print(
                    f"epsilon {epsilon} rounds {rounds} C {norm} lr {rate}: "
                    f"{np.mean(found):.2f} % {np.round(found, 2).tolist()}",
                    flush=True,
                )


def measure(out: Path) -> None:
    """Print accuracy and epsilon over three seeds, and whether an epsilon-3 copy is traced."""
    home = out / "home"
    if not home.exists():
        smdl(["init", "--home", str(home)])
    for name, changes in MEASURED.items():
        runs = [
            simulated(out, home, name, f"{name.replace(' ', '-')}-{seed}", *changes, f"seed={seed}")
            for seed in (7, 8, 9)
        ]
        print(f"RESULT {name}: {summary(runs)}")
        if name == "private-eps3":
            for run in runs:
                print(f"TRACED {name}, pruned by half and fine-tuned: {traced(home, run)}")


def cifar10(folder: Path, out: Path) -> None:
    """Print what CIFAR-10 reaches with and without noise, from JPEG folders ``train``, ``test``."""
    images, home = out / "images", out / "home"
    if not images.exists():
        some_images(folder, images, {"train": 2000, "test": 200})
    if not home.exists():
        smdl(["init", "--home", str(home)])
    changes = ("data=imagefolder", f"data-dir={images}")
    clear = simulated(out, home, "no-privacy", "no-privacy", *changes)
    noised = simulated(out, home, "private-eps8", "eps8", *changes, "privacy.shard-size=4000")
    for name, run in (("no-privacy", clear), ("private-eps8", noised)):
        print(f"RESULT CIFAR-10, 5 x 4,000 images, {name}: {summary([run])}")


def some_images(folder: Path, images: Path, counts: dict[str, int]) -> None:
    """Copy the first images of each class."""
    for part, count in counts.items():
        for group in sorted((folder / part).iterdir()):
            (images / part / group.name).mkdir(parents=True)
            for path in sorted(group.iterdir())[:count]:
                shutil.copy(path, images / part / group.name)


def simulated(out: Path, home: Path, name: str, folder: str, *changes: str) -> Path:
    """Run a scenario with changes, unless that was done; return its folder."""
    run = out / folder
    if not (run / "run.json").exists():
        scene = str(ROOT / "scenarios" / f"{name.split(maxsplit=1)[0]}.toml")
        words = ["simulate", scene, "--engine", "inline", "--home", str(home), "--out", str(run)]
        assert smdl([*words, "--json", *(w for c in changes for w in ("--set", c))]) == 0
    return run


def summary(runs: list[Path]) -> str:
    """Accuracies and epsilons of runs, in words."""
    lines = [(run / "metrics.jsonl").read_text().splitlines()[-1] for run in runs]
    accuracies = [100 * json.loads(line)["accuracy"] for line in lines]
    spent = [json.loads((run / "privacy.json").read_text())["epsilon"] for run in runs]
    shown = ", ".join(f"{a:.1f}" for a in accuracies)
    return f"{statistics.mean(accuracies):.2f} % ({shown}); epsilon {spent}"


def traced(home: Path, run: Path) -> str:
    """What ``smdl verify`` says of the first copy after a thief pruned and fine-tuned it."""
    copy = sorted((run / "copies").iterdir())[0]
    stolen, report = run / "stolen.safetensors", run / "evidence"
    if not report.exists():
        assert smdl(["attack", "prune-fine-tune", str(copy), "--out", str(stolen)]) == 0
        smdl(["verify", str(stolen), "--home", str(home), "--report", str(report)])
    verdict = json.loads((report / "verdict.json").read_text())
    named = ", ".join(f"{a['customer']} log10 p {a['log10_p']:.0f}" for a in verdict["accused"])
    return f"{copy.stem}: {named or 'nobody named'}"


def cost() -> None:
    run = scenario("private-eps3")
    part = features(run)
    shard = Features(part.values[:800], part.labels[:800])
    steps = replace(Mechanism.of(run).steps, count=20)
    mechanism = replace(Mechanism.of(run), steps=steps)
    plain = scenario("no-privacy", **{"batch-size": 800, "local-epochs": 20}).training
    head, generator = torch.nn.Linear(shard.values.shape[1], 10), torch.Generator()
    times: dict[str, list[float]] = {"plain": [], "private": []}
    for _ in range(30):
        start = time.process_time()
        training.train(head, shard, plain, learning_rate=0.1, generator=generator)
        times["plain"].append((time.process_time() - start) / 20)
        start = time.process_time()
        noise.train(
            head, shard, mechanism, run.training, learning_rate=0.1, entropy=SystemEntropy()
        )
        times["private"].append((time.process_time() - start) / 20)
    best = {k: 1e3 * min(v) for k, v in times.items()}
    print(f"a step of 800 images: {best}, ratio {best['private'] / best['plain']:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    places = [Path(argument) for argument in sys.argv[2:]]
    commands: dict[str, Callable[..., None]]
    commands = {"select": select, "measure": measure, "cifar10": cifar10, "cost": cost}
    commands[sys.argv[1]](*places)
