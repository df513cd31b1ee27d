"""Run a user's own checkout of FedTracker or TraMark and try our rows on what it trained.

Their code has no licence: none of it is here. It is started, or imported, from the path that the
user gives, in a process of its own. It is changed in two ways only, both while it runs: it finds
our MNIST-5k split where it looks for its data sets, and without a GPU ``.cuda()`` does nothing.

    python -m benchmarks.peer_checkouts fedtracker CHECKOUT WORK --json FILE
"""

import argparse
import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import peer_rows
from benchmarks.peer_rows import CUSTOMERS, Samples
from smdl_flower.config import DataConfig
from smdl_flower.data import Images, load_split

DATA = DataConfig.of_one_party("mnist-5k", "", 0)
TRIGGERS, TRIGGER_IMAGES = 10, 120  # images of each pattern, for TraMark's trigger sets

FEDTRACKER = (
    *("--dataset", "mnist", "--num_channels", "1", "--num_classes", "10", "--image_size", "32"),
    *("--model", "CNN4", "--embed_layer_names", "extractor.norm1;extractor.norm2"),
    *("--num_clients", str(CUSTOMERS), "--clients_percent", "1.0", "--gpu", "-1"),
)
TRAMARK = (
    *("--data", "fmnist", "--aggr", "tramark", "--num_agents", str(CUSTOMERS)),
    *("--local_ep", "2", "--num_workers", "0"),
)


class CheckoutError(Exception):
    """The checkout is not what this harness knows how to run."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("work", type=Path, help="empty folder for its data and results")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6, help="of FedTracker; TraMark's are fixed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # nothing is left behind in the user's checkout
    checkout, work = arguments.checkout.resolve(), arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        scheme = PEERS[arguments.peer](checkout, work, arguments.rounds)
        rows = list(peer_rows.rows(scheme))
    except CheckoutError as error:
        print(f"{arguments.peer}: {error}", file=sys.stderr)
        return 2
    arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


class FedTracker:
    """https://github.com/shaoshuo-ss/FedTracker (arXiv 2211.07160): bits in norm scales, argmax."""

    def __init__(self, checkout: Path, work: Path, rounds: int) -> None:
        """Train with its ``main.py``, then load the copies it saved."""
        require_files(checkout, ("main.py", "watermark/fingerprint.py", "utils/models.py"))
        write_mnist(work / "data" / "mnist" / "MNIST" / "raw", *_our_split())
        link(checkout / "data" / "pattern", work / "data" / "pattern")
        results = work / "result"
        options = (*FEDTRACKER, "--epochs", str(rounds), "--save_dir", f"{results}/")
        _start([sys.executable, str(checkout / "main.py"), *options], work)
        require_files(results, ("args.txt", *(f"model_{i}.pth" for i in range(CUSTOMERS))))

        os.chdir(work)
        sys.path.insert(0, str(checkout))
        self._marks = imported("watermark.fingerprint", _FINGERPRINT_FUNCTIONS)
        self._models = imported("utils.models", ("get_model",))
        self._args = SimpleNamespace(**json.loads((results / "args.txt").read_text()))
        self.copies = [self._copy(results / f"model_{i}.pth") for i in range(CUSTOMERS)]
        datasets = imported("utils.datasets", ("get_full_dataset",))
        size = (self._args.image_size, self._args.image_size)
        train, test = datasets.get_full_dataset("mnist", img_size=size)
        self.train, self.test = samples_of(train), samples_of(test)
        # As its main.py makes them; it seeds them itself, so they are the same here.
        length, names = self._args.lfp_length, self._args.embed_layer_names
        width = self._marks.get_embed_layers_length(self.copies[0], names)
        self._fingerprints = self._marks.generate_fingerprints(CUSTOMERS, length)
        self._matrices = self._marks.generate_extracting_matrices(width, length, CUSTOMERS)

    def _copy(self, path: Path) -> nn.Module:
        model = self.fresh(0)
        # What the user's own run has just written, in the only format it knows; no code is loaded.
        model.load_state_dict(torch.load(path, weights_only=True))  # noqa: TID251
        return model.eval()

    def fresh(self, seed: int) -> nn.Module:
        """Return an untrained model."""
        torch.manual_seed(seed)
        model: nn.Module = self._models.get_model(self._args)
        return model

    def trace(self, model: nn.Module) -> list[int]:
        """Return the one client whose fingerprint fits best: it always names one."""
        layers = self._marks.get_embed_layers(model.cpu(), self._args.embed_layer_names)
        _, index = self._marks.extracting_fingerprints(layers, self._fingerprints, self._matrices)
        return [int(index)]


_FINGERPRINT_FUNCTIONS = (
    "generate_fingerprints",
    "generate_extracting_matrices",
    "extracting_fingerprints",
    "get_embed_layers",
    "get_embed_layers_length",
)


class TraMark:
    """https://github.com/JiiahaoXU/TraMark (arXiv 2505.13651): a trigger set per client, argmax."""

    def __init__(self, checkout: Path, work: Path, rounds: int) -> None:
        """Run its ``federated.py`` in this process and take the models it ends with."""
        del rounds  # its script fixes them
        source = checkout / "src"
        require_files(source, ("federated.py", "aggregation.py", "watermark_utils.py", "models.py"))
        write_mnist(work / "data" / "FashionMNIST" / "raw", *_our_split())
        write_mnist(work / "data" / "MNIST" / "raw", triggers(1), triggers(2))
        for path in source.iterdir():
            link(path, work / "src" / path.name)
        os.chdir(work / "src")
        sys.path.insert(0, str(work / "src"))
        if not torch.cuda.is_available():
            torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
            nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        sys.argv = ["federated.py", *TRAMARK]
        ended = runpy.run_path("federated.py", run_name="__main__")
        found = require_names(ended, ("global_model_list", "aggregator"), "federated.py")
        self._loaders = require_names(vars(found["aggregator"]), ("class_loaders",), "Aggregation")
        self._tools = imported("watermark_utils", ("test_model",))
        self._models = imported("models", ("get_model",))
        datasets = imported("utils", ("get_datasets",)).get_datasets("fmnist")
        self.train, self.test = map(samples_of, datasets)
        self.copies = [found["global_model_list"][i].eval() for i in range(CUSTOMERS)]

    def fresh(self, seed: int) -> nn.Module:
        """Return an untrained model."""
        torch.manual_seed(seed)
        model: nn.Module = self._models.get_model("fmnist")
        return model

    def trace(self, model: nn.Module) -> list[int]:
        """Return the one client whose trigger set the model gets right most often."""
        loaders = self._loaders["class_loaders"]
        right = [self._tools.test_model(model, loaders[i]["test"]) for i in range(CUSTOMERS)]
        return [int(np.argmax(right))]


PEERS: Mapping[str, Any] = {"fedtracker": FedTracker, "tramark": TraMark}


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raise if a file is missing that the harness needs."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckoutError(
            f"{folder} lacks {', '.join(missing)}; expected a checkout as benchmarks/peers.md says"
        )


def imported(name: str, needed: Sequence[str]) -> ModuleType:
    """Import a module of the checkout that has certain names."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise CheckoutError(
            f"its module {name} cannot be imported ({error}); install what its README asks for"
        ) from None
    require_names(vars(module), needed, name)
    return module


def require_names(found: Mapping[str, Any], needed: Sequence[str], where: str) -> Mapping[str, Any]:
    """Return what was found if nothing is missing."""
    missing = [name for name in needed if name not in found]
    if missing:
        raise CheckoutError(
            f"its {where} has no {', '.join(missing)}; this harness knows the commits that "
            "benchmarks/peers.md names"
        )
    return found


def _start(command: list[str], work: Path) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise CheckoutError(f"its training ended with {done.returncode}: {' '.join(last)}")


def link(source: Path, place: Path) -> None:
    """Make something of the checkout visible where its code looks for it."""
    if source.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)


def samples_of(dataset: Any) -> Samples:
    """Return a torch data set of the checkout as tensors, transformed as it says."""
    pairs = [dataset[i] for i in range(len(dataset))]
    labels = torch.tensor([int(label) for _, label in pairs])
    return Samples(torch.stack([image for image, _ in pairs]), labels)


def _our_split() -> tuple[Images, Images]:
    split = load_split(DATA)
    train, test = (c.load(np.arange(len(c.labels))) for c in (split.train, split.test))
    return train, test


def triggers(seed: int) -> Images:
    """Return images of ten random patterns with noise: what stands for TraMark's trigger digits."""
    patterns = np.random.default_rng(0).integers(0, 256, (TRIGGERS, 1, 28, 28))
    labels = np.repeat(np.arange(TRIGGERS), TRIGGER_IMAGES)
    noise = np.random.default_rng(seed).normal(0, 40, (len(labels), 1, 28, 28))
    pixels = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
    names = tuple(map(str, range(TRIGGERS)))
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels), names)


def write_mnist(folder: Path, train: Images, test: Images) -> None:
    """Write images in the format of MNIST's files, where torchvision looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, images in (("train", train), ("t10k", test)):
        pixels = images.pixels[:, 0].numpy()
        labels = images.labels.numpy().astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(_idx(pixels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_idx(labels))


def _idx(array: NDArray[np.uint8]) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + np.ascontiguousarray(array).tobytes()


if __name__ == "__main__":
    sys.exit(main())
