"""The document ``privacy.json``: what may be claimed about a run, and what not."""

from typing import Any

from smdl_flower.config import PrivacyConfig
from smdl_flower.privacy.partition import PrivacyPartition

FORMAT = "smdl-privacy/2"


def document(config: PrivacyConfig, split: PrivacyPartition) -> dict[str, Any]:
    """Return what ``privacy.json`` says about a run."""
    return {
        "format": FORMAT,
        "policy": config.policy,
        "channel": config.channel,
        "partition_sha256": split.sha256(),
        "partition": split.to_json(),
        "epsilon": None,
        "claim": "No DP claim: channel 'clear' sends every update to the server unprotected",
    }
