"""Memory of a simulation of many participants, round by round.

Usage: python -m benchmarks.many_participants [--engine flower] [--participants 100] [--rounds 5]

What grows from round to round would end a long run. Memory is the peak within each round of the sum
of the proportional set sizes of all processes of the run; Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.engines import SAMPLE_SECONDS, memory_of_run

SCENARIO = Path("scenarios") / "digits-smoke.toml"


def main() -> None:
    """Run the simulation, and print each round's peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="flower")
    parser.add_argument("--participants", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = {
        "num-participants": arguments.participants,
        "min-replies": arguments.participants,
        "num-server-rounds": arguments.rounds,
        "local-epochs": 1,
        "fingerprint.max-accuracy-drop": 1.0,
    }
    table = Table("round", "seconds since the start", "peak memory, MiB")
    for number, (seconds, peak) in enumerate(measured(arguments.engine, settings), start=1):
        table.add_row(str(number), f"{seconds:.0f}", f"{peak:,.0f}")
    Console().print(table)


def measured(engine: str, settings: dict[str, object]) -> list[tuple[float, float]]:
    """Return when each round ended, and the peak MiB within it."""
    smdl = str(Path(sys.executable).parent / "smdl")
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as name:
        home, run = f"{name}/home", Path(name) / "run"
        subprocess.run([smdl, "init", "--home", home], check=True, stdout=subprocess.DEVNULL)
        process = subprocess.Popen(
            [
                *(smdl, "simulate", str(SCENARIO), "--engine", engine, "--home", home),
                *("--out", str(run), *chosen),
            ],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SMDL_BENCHMARK": name},
        )
        rounds: list[tuple[float, float]] = []
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_of_run(name))
            lines = seconds_of_rounds(run)
            if len(lines) > len(rounds):
                rounds.append((lines[-1], peak))
                peak = 0.0
            time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            sys.exit("the run failed")
    return rounds


def seconds_of_rounds(run: Path) -> list[float]:
    """Return when each round so far ended."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["seconds"] for line in lines]


if __name__ == "__main__":
    main()
