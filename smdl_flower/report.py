"""placeholder"""

from pathlib import Path

from smdl_flower.evidence import Verdict


def write_run_report(run: Path) -> None: ...
def write_verdict_report(verdict: Verdict, path: Path) -> None: ...
