"""``privacy-attacks.json``: how far each attack got, its control, and the audit."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from smdl_flower import privacy_page
from smdl_flower.bench.privacy.auditing import Audited
from smdl_flower.bench.privacy.participants import Participants
from smdl_flower.bench.privacy.scores import Row
from smdl_flower.evidence import versions
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.privacy.audit import Check

FORMAT = privacy_page.ATTACKS_FORMAT
NAME = privacy_page.ATTACKS_FILE


def document(who: Participants, rows: Sequence[Row], found: Audited | None) -> dict[str, Any]:
    """Return what was measured."""
    privacy = who.run.privacy
    return {
        "format": FORMAT,
        "scenario": who.run.scenario,
        "model": who.run.model,
        "data": who.run.data.source,
        "images": len(who.images),
        "policy": privacy.policy,
        "channel": privacy.channel,
        "epsilon": privacy.epsilon if who.is_private else None,
        "attacks": [_row(row) for row in rows],
        "audit": None if found is None else _audit(found),
        "code_sha256": code_sha256(),
        "versions": versions(),
    }


def _row(row: Row) -> dict[str, Any]:
    return {**asdict(row), "works": row.works, "verdict": row.verdict()}


def _audit(found: Audited) -> dict[str, Any]:
    return {
        "works": found.works,
        "passed": not found.honest.failures,
        "failures": list(found.honest.failures),
        "canaries": found.honest.canaries,
        "claimed_epsilon": found.honest.claimed_epsilon,
        "lower_bound": found.honest.lower_bound,
        "checks": [_check(check) for check in found.honest.checks],
    }


def _check(check: Check) -> dict[str, Any]:
    return {**asdict(check), "deviation": check.deviation, "passed": check.passed}
