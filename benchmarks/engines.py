"""Wall time and peak memory of a scenario on both engines.

Usage: python benchmarks/engines.py [scenarios/quickstart.toml] [--json FILE]

Memory is the sum of the proportional set sizes (shared pages counted once) of all processes of the
run, sampled twice a second from /proc; Linux only.
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

SAMPLE_SECONDS = 0.5


def main() -> None:
    """Run the scenario on each engine and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "scenario", type=Path, nargs="?", default=Path("scenarios") / "quickstart.toml"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {engine: measure(engine, arguments.scenario) for engine in ("inline", "flower")}
    table = Table("engine", "wall seconds", "ratio to inline", "peak memory, MiB")
    for engine, (seconds, peak) in figures.items():
        ratio = seconds / figures["inline"][0]
        table.add_row(engine, f"{seconds:.1f}", f"{ratio:.2f}", f"{peak:.0f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(engine: str, scenario: Path) -> tuple[float, float]:
    """Return wall seconds and peak MiB of one run in a fresh home."""
    smdl = str(Path(sys.executable).parent / "smdl")
    with tempfile.TemporaryDirectory() as name:
        home, run = f"{name}/home", f"{name}/run"
        subprocess.run([smdl, "init", "--home", home], check=True, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        process = subprocess.Popen(
            [smdl, "simulate", str(scenario), "--engine", engine, "--home", home, "--out", run],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "SMDL_BENCHMARK": name},
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_of_run(name))
            time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            sys.exit(f"the run failed on engine {engine}")
        return time.monotonic() - started, peak


def memory_of_run(marker: str) -> float:
    """Return the MiB of all processes that inherited the run's environment."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"SMDL_BENCHMARK={marker}".encode() in (entry / "environ").read_bytes():
                rollup = (entry / "smaps_rollup").read_text()
                total += int(rollup.split("Pss:")[1].split()[0])
        except (OSError, IndexError, ValueError):
            continue  # it ended in between
    return total / 1024


if __name__ == "__main__":
    main()
