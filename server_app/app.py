"""What the owner's server runs: train with a Flower strategy, then fingerprint the result."""

from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from smdl_flower import config, models, own_images, training
from smdl_flower.data import Images
from smdl_flower.flower import checkpoint, owner, packing, records, strategies
from smdl_flower.flower.averaging import Averaging
from smdl_flower.flower.presence import Presence
from smdl_flower.flower.privacy_record import PrivacyRecord
from smdl_flower.flower.run_folder import RunFolder, config_sha256, new_run_id
from smdl_flower.flower.strategy import FingerprintStrategy, RoundObserver, RoundRules
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import partition
from smdl_flower.privacy.partition import Label

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the whole federation: rounds of training, then the fingerprint round."""
    run = config.parse(context.run_config)
    folder = RunFolder.from_environment(run.scenario, owner.home_path() / "runs")
    with folder.recording_failure():
        folder.write_resolved(context.run_config)
        images = owner.test_images(run)
        spec = ModelSpec.for_images(run.model, images.pixels, images.classes)
        home = owner.open_home(run)
        issuer = owner.issuer(home, run, spec, images, folder)  # refuses before anybody trains
        settings = config_sha256(context.run_config)
        start = _starting_point(run, spec, folder, settings)
        run_id = start.run or new_run_id(run.scenario)
        folder.identify(run_id, training_marked=run.marking.enabled)
        inner = strategies.build(run)
        checkpoint.restore_optimizer_state(inner, start.optimizer)
        split = partition.partition(run.privacy, models.from_weights(spec, start.model))
        privacy = PrivacyRecord.begin(run, split, folder.path, completed=start.round)
        averaging = Averaging(run.privacy.averaging, run.federation.rounds, start.average)
        rounds = run.federation.rounds
        rules = RoundRules(
            min_replies=run.federation.min_replies,
            learning_rate=lambda r: training.scheduled_rate(run.training, r, rounds),
            completed=start.round,
            partition=split,
            privacy=privacy,
            averaging=averaging,
            images=own_images.terms_of(images),
            presence=Presence.of(run),
            max_weight=run.federation.max_weight,
            report=folder.append_incident,
        )
        recorder = owner.RoundRecorder(folder, inner, averaging, settings, run_id)
        marker = owner.marker(home, run, spec, run_id, split.names(Label.PUBLIC))
        packing.pack_in_transit(grid)
        # What was declared is on disk before the checkpoint that a resumed run goes on from.
        observers: list[RoundObserver] = [privacy, recorder]
        FingerprintStrategy(inner, issuer, marker, rules=rules, observers=observers).start(
            grid,
            records.to_record(start.model),
            num_rounds=rounds,
            timeout=run.federation.timeout,
            evaluate_fn=lambda _, arrays: _evaluate(spec, images, arrays),
        )


def _starting_point(
    run: config.RunConfig, spec: ModelSpec, folder: RunFolder, settings: str
) -> checkpoint.Checkpoint:
    if not run.federation.resume_from:
        model = models.build(spec, seed=run.seed)
        return checkpoint.Checkpoint(0, partition.bring_public_weights(run.privacy, model))
    earlier = Path(run.federation.resume_from)
    start = checkpoint.load(earlier, settings)
    folder.copy_rounds(earlier, start.round)
    return start


def _evaluate(spec: ModelSpec, images: Images, arrays: ArrayRecord) -> MetricRecord:
    result = training.evaluate(models.from_weights(spec, records.from_record(arrays)), images)
    return MetricRecord({"accuracy": result.accuracy, "loss": result.loss})
