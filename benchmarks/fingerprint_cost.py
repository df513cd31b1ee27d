"""What a fingerprint costs: time and memory of each step, for models of four sizes.

One thread. Each size runs in a process of its own, so that its peak memory is its own. Two steps
everybody knows are measured in the same process for comparison: one float32 pass over the marked
weights (``w + x``) and their SHA-256.

    python benchmarks/fingerprint_cost.py --json cost.json
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from smdl_flower import files, models
from smdl_flower.evidence import versions
from smdl_flower.fingerprint import carriers, codes, embedding, extraction, tracing
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import SAMPLES, sensitivity_profile
from smdl_flower.models import ModelSpec
from smdl_flower.weights import digest

FORMAT = "smdl-flower fingerprint cost 1"
INPUT_SHAPE = (3, 32, 32)
CODE_LENGTH, STRENGTH = 304, 0.2
PROFILE_SAMPLES = 20  # of the product's 400; the time is scaled up

SIZES: dict[str, Callable[[], nn.Module]] = {
    "1e5": lambda: models.replace_batch_norm(models.resnet8(3, 10, width=18)),
    "1e6": lambda: models.replace_batch_norm(models.resnet8(3, 10, width=58)),
    "1.1e7": lambda: models.build(ModelSpec("resnet18", 3, 10, INPUT_SHAPE[1]), seed=0),
    "2.5e7": lambda: models.build(ModelSpec("resnet50", 3, 1000, INPUT_SHAPE[1]), seed=0),
}


def measure(size: str, repeats: int) -> dict[str, Any]:
    """Return the figures of one model size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    base = models.to_weights(model)
    layout = Layout.of(base)
    campaign = OwnerKey(bytes(32)).campaign(digest(base))
    customer = campaign.customer("clinic-a")

    start = time.perf_counter()
    profile = sensitivity_profile(model, layout, INPUT_SHAPE, samples=PROFILE_SAMPLES)
    profile_seconds = (time.perf_counter() - start) * SAMPLES / PROFILE_SAMPLES

    def prepare() -> Mark:
        return Mark.of(base, profile, campaign, code=Code(CODE_LENGTH), strength=STRENGTH)

    mark = prepare()
    vector = embedding.embed(mark, customer)
    copy = layout.restore(base, vector)
    reading = extraction.read(mark, copy)
    tests = tracing.payload_tests(mark, reading).values()

    def compare_payload() -> float:
        word = codes.codeword(customer, mark.biases)
        return min(test.log_p(test.score(word)) for test in tests)

    steps: dict[str, Callable[[], object]] = {
        "w + x": lambda: mark.base + mark.profile,
        "sha256": lambda: hashlib.sha256(mark.base.data).digest(),
        "prepare mark": prepare,
        "embed a copy": lambda: embedding.embed(mark, customer),
        "payload read": lambda: extraction.read_payload(mark, vector),
        "full read": lambda: extraction.read(mark, copy),
        "payload tests": lambda: tracing.payload_tests(mark, reading),
        "carrier, each": lambda: carriers.score(customer, reading.direction),
        "payload p, each": compare_payload,
    }
    rows = {name: _time(step, repeats) for name, step in steps.items()}
    for row in rows.values():
        row["per_pass"] = row["seconds"] / rows["w + x"]["seconds"]
        row["per_sha256"] = row["seconds"] / rows["sha256"]["seconds"]
    return {
        "size": size,
        "marked_weights": layout.size,
        "marked_tensors": len(layout.tensors),
        "profile_seconds": profile_seconds,
        "steps": rows,
    }


def _time(step: Callable[[], object], repeats: int) -> dict[str, float]:
    step()
    before = _reset_peak()
    step()
    peak = _mebibytes("VmHWM")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": min(seconds),  # the fastest: on a shared machine the others measure neighbours
        "median_seconds": statistics.median(seconds),
        "peak_mib": peak,
        "extra_mib": peak - before,
    }


def _reset_peak() -> float:
    """Start a new peak at what the process holds now (Linux), and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _mebibytes("VmRSS")


def _mebibytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _in_own_process(size: str, repeats: int) -> dict[str, Any]:
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--only", size, "--repeats", str(repeats)],
        env={**os.environ, **single},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _print(results: list[dict[str, Any]]) -> None:
    table = Table(title=f"Fingerprint cost, one thread, {CODE_LENGTH} bits")
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("step", no_wrap=True)
    for heading in ("seconds", "/ (w+x)", "/ sha256", "peak MiB", "new MiB"):
        table.add_column(heading, justify="right")
    for result in results:
        for name, row in result["steps"].items():
            table.add_row(
                f"{result['marked_weights']:,}",
                name,
                f"{row['seconds']:.5f}",
                f"{row['per_pass']:.1f}",
                f"{row['per_sha256']:.2f}",
                f"{row['peak_mib']:.0f}",
                f"{row['extra_mib']:.0f}",
            )
        label = "profile"
        seconds = result["profile_seconds"]
        table.add_row(f"{result['marked_weights']:,}", label, f"{seconds:.1f}", "", "", "", "")
        table.add_section()
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each step")
    parser.add_argument("--only", choices=SIZES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        json.dump(measure(arguments.only, arguments.repeats), sys.stdout)
        return
    console = Console(stderr=True)
    results = []
    for size in SIZES:
        with console.status(f"Measuring {size} weights ..."):
            results.append(_in_own_process(size, arguments.repeats))
    _print(results)
    if arguments.json:
        document = {"benchmark": FORMAT, "versions": versions(), "sizes": results}
        files.write_json(arguments.json, document, mode=0o644)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
