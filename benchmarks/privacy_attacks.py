"""How participants of the shipped privacy scenarios stand up to attacks, over several seeds.

Usage: python benchmarks/privacy_attacks.py [SCENARIO.toml ...] [--seeds N] [--json FILE]

What `smdl bench --privacy` measures once, with other images, models and noise each time; and the
inversion of a convolutional front that was trained on public digits.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smdl_flower.bench.privacy import attacks, auditing, participants
from smdl_flower.bench.privacy.participants import Participants
from smdl_flower.bench.privacy.scores import Row
from smdl_flower.config import DataConfig, RunConfig
from smdl_flower.data import load_split
from smdl_flower.fronts import FrontedClassifier

SCENARIOS = [
    Path("scenarios") / f"{n}.toml" for n in ("no-privacy", "private-eps8", "private-eps3")
]

PRETRAINED = "inversion-pretrained-front"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", type=Path, nargs="*", default=SCENARIOS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--attack", action="append", help="this one only; may be repeated")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    print("scenario | seed | attack | control | protected | a guess | says")
    for scenario in arguments.scenarios:
        run = participants.read_target(scenario)
        for seed in range(1, arguments.seeds + 1):
            for row in measured(run.model_copy(update={"seed": seed}), arguments.attack):
                print(run.scenario, seed, *cells(row), sep=" | ", flush=True)
                results.append({"scenario": run.scenario, "seed": seed, **dataclasses.asdict(row)})
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measured(run: RunConfig, only: list[str] | None) -> Iterator[Row]:
    """Measure attacks on a run, then inversion with a front that was trained on digits."""
    who = participants.load(run)
    for attack in attacks.attacks(who):
        if not only or attack.name in only:
            yield attack.measure(who, lambda: None)
    if who.has_front and (not only or PRETRAINED in only):
        row = attacks.invert(with_pretrained_front(who), lambda: None)
        yield dataclasses.replace(row, attack=PRETRAINED)
    if who.is_private:
        found = auditing.audited(who)
        print(f"audit of {run.scenario}, seed {run.seed}:", _audit(found), flush=True)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells."""
    interval = f" [{row.protected.low:.2f}, {row.protected.high:.2f}]"
    return (
        *(row.attack, row.control.text(), row.protected.text() + interval),
        *(f"{row.chance:.4f}", row.verdict()),
    )


def with_pretrained_front(who: Participants) -> Participants:
    """Return the same participants behind convolutions trained on scikit-learn's digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        front = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.AvgPool2d(2)),
            nn.Flatten(),
        )
        model = FrontedClassifier(front, 32 * 7 * 7, 10)
    digits = load_split(DataConfig.of_one_party("digits", "", 28)).train
    images = digits.load(torch.arange(len(digits.labels)).numpy())
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            adam.zero_grad()
            logits = model(images.inputs(batch))
            nn.functional.cross_entropy(logits, images.labels[batch]).backward()
            adam.step()
    for parameter in [*model.head.parameters()]:
        nn.init.zeros_(parameter)
    front.requires_grad_(requires_grad=False)
    with torch.no_grad():
        inputs = torch.cat([front(part) for part in who.images.inputs().split(200)])
    inputs = inputs[:2000]  # memory: a decoder of 1,568 features
    images = who.images.take(2000)
    return dataclasses.replace(who, images=images, model=model, head=model.head, inputs=inputs)


def _audit(found: auditing.Audited) -> dict[str, Any]:
    return {
        "passed": not found.honest.failures,
        "half the noise noticed": found.works,
        "claimed": round(found.honest.claimed_epsilon, 3),
        "lower bound": round(found.honest.lower_bound, 2),
    }


if __name__ == "__main__":
    main()
