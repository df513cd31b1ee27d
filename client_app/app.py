"""What a participant runs: load its own images, train, reply with the allow-listed tensors."""

import hashlib
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from smdl_flower import config, models, own_images, training
from smdl_flower.data import Images, load_shard
from smdl_flower.errors import ConfigError, PrivacyError
from smdl_flower.flower import packing, receiving, records, reticence
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import participant
from smdl_flower.privacy.declaration import Declaration
from smdl_flower.privacy.partition import PrivacyPartition
from smdl_flower.representation import Examples

app = ClientApp(mods=[reticence.keep_to_itself, packing.in_one_piece])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this participant's shard for one round."""
    run = config.parse(context.run_config)
    shard = _images(run, message, context)
    model = _model(run, shard, message)
    instruction = message.content.config_records[records.CONFIG]
    split = participant.prepare(run, model, shard, str(instruction[records.PARTITION_SHA256]))
    part, examples = participant.what_is_trained(run, split, model, shard)
    metrics: dict[str, float] = {records.NUM_EXAMPLES: len(shard)}
    declaration = None
    if run.privacy.channel == "dp":
        declaration = _train_private(run, split, part, examples, instruction, context)
        metrics = {records.NUM_EXAMPLES: run.privacy.shard_size}
    else:
        metrics[records.TRAIN_LOSS] = training.train(
            part,
            examples,
            run.training,
            learning_rate=float(instruction[records.LEARNING_RATE]),  # type: ignore[arg-type]
            proximal_mu=float(instruction.get(records.PROXIMAL_MU, 0.0)),  # type: ignore[arg-type]
            generator=_generator(run.seed, instruction[records.SERVER_ROUND], context),
        )
    return records.train_reply(
        message,
        split.select(models.to_weights(model)),
        metrics,
        {
            records.PARTITION_ID: f"{_participant(context):06d}",
            records.CODE_SHA256: code_sha256(),
        },
        declaration,
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this participant's shard."""
    run = config.parse(context.run_config)
    if run.privacy.channel == "dp":
        raise PrivacyError("accuracy and loss on private images would leave without noise")
    shard = _images(run, message, context)
    result = training.evaluate(_model(run, shard, message), shard)
    metrics = MetricRecord(
        {
            records.NUM_EXAMPLES: len(shard),
            records.EVAL_ACCURACY: result.accuracy,
            records.EVAL_LOSS: result.loss,
        }
    )
    return Message(RecordDict({records.METRICS: metrics}), reply_to=message)


@app.query("present")
def present(message: Message, context: Context) -> Message:
    """Prove which node this is, so that it may get its own copy."""
    return receiving.present(message, context)


@app.query("receive")
def receive(message: Message, context: Context) -> Message:
    """Take this node's own copy and sign for it."""
    return receiving.receive(message, context, str(context.run_config["model"]))


def _train_private(
    run: config.RunConfig,
    split: PrivacyPartition,
    part: torch.nn.Module,
    examples: Examples,
    instruction: ConfigRecord,
    context: Context,
) -> Declaration:
    from smdl_flower.privacy import private_round  # noqa: PLC0415 - opacus takes seconds

    return private_round.train(
        run,
        split,
        part,
        examples,
        instruction=private_round.Instruction(
            int(instruction[records.SERVER_ROUND]),  # type: ignore[arg-type]
            float(instruction[records.LEARNING_RATE]),  # type: ignore[arg-type]
        ),
        ledger=private_round.open_ledger(run, _participant(context), context.node_config),
    )


def _images(run: config.RunConfig, message: Message, context: Context) -> Images:
    """Its own folder, if the institution has named one; else its shard of the run's source."""
    folder = context.node_config.get("data-dir")
    if folder:
        terms = records.terms_in(message.content.config_records[records.CONFIG])
        return own_images.load(Path(str(folder)), terms, least=run.federation.min_images)
    return load_shard(run.data, participant=_participant(context), seed=run.seed)


def _model(run: config.RunConfig, shard: Images, message: Message) -> torch.nn.Module:
    spec = ModelSpec.for_images(run.model, shard.pixels, shard.classes)
    arrays = message.content.array_records[records.ARRAYS]
    assert isinstance(arrays, ArrayRecord)  # noqa: S101 - for the type checker
    return models.from_weights(spec, records.from_record(arrays))


def _participant(context: Context) -> int:
    number = context.node_config.get("partition-id")
    if type(number) is not int or not 0 <= number < 1_000_000:
        raise ConfigError(
            f"this SuperNode's partition-id is {number!r}; give it the number that the owner "
            "assigned: --node-config 'partition-id=0 ...' (the start.sh you were handed has it)"
        )
    return number


def _generator(seed: int, server_round: object, context: Context) -> torch.Generator:
    """Order and augmentation depend on seed, round and participant only: a resumed run repeats."""
    label = f"{seed}/{server_round}/{_participant(context)}".encode()
    number = int.from_bytes(hashlib.sha256(label).digest()[:7], "big")
    return torch.Generator().manual_seed(number)
