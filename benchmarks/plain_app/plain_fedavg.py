"""Flower's FedAvg with the training of smdl-flower, and none of its marks, checks or records."""

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from smdl_flower import models, own_images, training
from smdl_flower.config import TrainingConfig, checked
from smdl_flower.image_folder import ImageFormat
from smdl_flower.models import ModelSpec

CLASSES = tuple(f"digit-{i}" for i in range(10))
TRAINING = checked(
    TrainingConfig,
    {
        "local-epochs": 1,
        "batch-size": 16,
        "learning-rate": 0.05,
        "lr-schedule": "constant",
        "momentum": 0.9,
        "weight-decay": 0.0005,
        "augment": "none",
    },
)

client = ClientApp()
server = ServerApp()


def spec_of(context: Context) -> ModelSpec:
    """Return the network of a run."""
    size = int(context.run_config["image-size"])
    return ModelSpec(str(context.run_config["model"]), 1, len(CLASSES), size)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's own folder."""
    spec = spec_of(context)
    folder = Path(str(context.node_config["data-dir"]))
    terms = own_images.Terms(CLASSES, ImageFormat(1, spec.image_size))
    images = own_images.load(folder, terms)
    model = models.build(spec, seed=7)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    loss = training.train(
        model, images, TRAINING, learning_rate=0.05, generator=torch.Generator().manual_seed(7)
    )
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(images), "train-loss": loss}),
        }
    )
    return Message(content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train with FedAvg, and write when each round ended."""
    began, lines = time.monotonic(), []

    def after_round(number: int, _: ArrayRecord) -> None:
        lines.append({"round": number, "seconds": time.monotonic() - began})
        Path(str(context.run_config["report"])).write_text(json.dumps(lines), encoding="utf-8")

    nodes = int(context.run_config["num-participants"])
    counts = {"min_train_nodes": nodes, "min_available_nodes": nodes, "fraction_evaluate": 0.0}
    FedAvg(**counts).start(  # type: ignore[arg-type]
        grid,
        ArrayRecord(models.build(spec_of(context), seed=7).state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=after_round,
    )
