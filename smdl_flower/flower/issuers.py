"""What becomes of the base model after training: copies, or a file for an issuer elsewhere."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flwr.serverapp import Grid

from smdl_flower import handover, issuing, models, sealing
from smdl_flower.config import RunConfig
from smdl_flower.errors import CapacityError, ConfigError
from smdl_flower.flower.delivering import Deliverer
from smdl_flower.flower.run_folder import RunFolder
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate, IssueResult
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class ServerIssuer:
    """Issues every customer's copy on the server, at the end of the run."""

    def __init__(
        self,
        home: OwnerHome,
        run: RunConfig,
        spec: ModelSpec,
        gate: FidelityGate,
        folder: RunFolder,
    ) -> None:
        issuing.require_capacity(spec, run.fingerprint)
        if run.delivery.enabled and not home.registry.public_keys():
            raise ConfigError(
                "fingerprint.deliver is true, and no customer has a public key to be known by; "
                "say: smdl customer key NAME --public-key FILE"
            )
        self._home = home
        self._run = run
        self._spec = spec
        self._gate = gate
        self._folder = folder
        self._enrol()  # without customers nothing could be issued: said before anybody trains

    def issue(self, base: Weights, grid: Grid) -> None:
        """Fingerprint the base model for every customer, deliver, and write ``run.json``.

        Raises:
            SmdlError: Not one copy passed its checks.
        """
        customers = self._home.registry.customers()
        fingerprint = self._run.fingerprint
        campaign = issuing.open_campaign(self._home, self._spec, base, fingerprint, self._gate)
        results = list(issuing.issue(self._home, campaign, customers, self._folder.path / "copies"))
        issuing.require_issued(results)
        self._folder.finish(
            {
                "scenario": self._run.scenario,
                "rounds": self._run.federation.rounds,
                "where": "server",
                "model_id": campaign.model.model_id,
                "marked_weights": campaign.mark.layout.size,
                "code_length": campaign.model.code.length,
                "base_accuracy": campaign.base_accuracy,
                "copies": [_copy_json(self._folder.path, result) for result in results],
                **self._deliver(grid, campaign.model.model_id, results),
            }
        )

    def _deliver(
        self, grid: Grid, model_id: str, results: Sequence[IssueResult]
    ) -> dict[str, object]:
        if not self._run.delivery.enabled:
            return {}
        deliverer = Deliverer(
            self._home.registry, self._folder.run_id, self._run.federation.timeout
        )
        outcomes = deliverer.deliver(grid, model_id, results)
        return {"deliveries": [asdict(outcome) for outcome in outcomes]}

    def _enrol(self) -> None:
        if self._home.registry.customers():
            return
        count = self._run.fingerprint.demo_customers
        if count == 0:
            raise ConfigError("the registry has no customers; say: smdl customer add NAME")
        self._home.registry.add_customers([f"customer-{i:02d}" for i in range(1, count + 1)])


class OfflineIssuer:
    """Seals the base model for an issuer elsewhere; this host holds no key and no registry."""

    def __init__(self, run: RunConfig, spec: ModelSpec, folder: RunFolder) -> None:
        issuing.require_capacity(spec, run.fingerprint)
        _require_sealable(spec)
        self._recipient = sealing.from_text(run.delivery.seal_to)
        self._run = run
        self._spec = spec
        self._folder = folder

    def issue(self, base: Weights, _grid: Grid) -> None:
        """Write ``global.sealed`` and ``run.json``; nothing of the model is left in clear."""
        path = self._folder.path / "global.sealed"
        handover.write(path, base, self._spec.to_metadata(), self._recipient)
        self._folder.finish(
            {
                "scenario": self._run.scenario,
                "rounds": self._run.federation.rounds,
                "where": "offline",
                "sealed_for": self._run.delivery.seal_to,
                "next": f"smdl issue {path} --out DIR",
                "copies": [],
            }
        )


def _require_sealable(spec: ModelSpec) -> None:
    """Refuse a model that is too large to seal, before anybody trains it."""
    untrained = models.to_weights(models.build(spec, seed=0))
    size = sum(array.nbytes for array in untrained.values()) + (1 << 20)  # and a header
    if size > sealing.LARGEST:
        raise CapacityError(
            f"{spec.name} takes {size:,} bytes, and {sealing.LARGEST:,} can be sealed; issue on "
            "the server (fingerprint.where = 'server')"
        )


def _copy_json(run: Path, result: IssueResult) -> dict[str, object]:
    document = asdict(result)
    document["path"] = str(result.path.relative_to(run)) if result.path else None
    return document
