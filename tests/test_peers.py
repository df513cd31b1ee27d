"""The harness for other schemes, with tiny checkouts that only have the names it relies on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import peer_checkouts, peer_rows
from benchmarks.peer_checkouts import CheckoutError
from benchmarks.peer_rows import CUSTOMERS, Samples

pytestmark = pytest.mark.e2e

FEDTRACKER = {
    "main.py": """
import argparse, json, os, torch
from utils.models import get_model
parser = argparse.ArgumentParser()
for name in ("dataset", "model", "embed_layer_names", "save_dir"):
    parser.add_argument("--" + name)
for name in ("num_channels", "num_classes", "image_size", "num_clients", "gpu", "epochs"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--clients_percent", type=float)
args = parser.parse_args()
assert os.path.isdir("./data/pattern")
args.lfp_length = 8
os.makedirs(args.save_dir)
json.dump(vars(args), open(os.path.join(args.save_dir, "args.txt"), "w"))
for number in range(args.num_clients):
    model = get_model(args)
    with torch.no_grad():
        model.norm.weight[number] = 9.0
    torch.save(model.state_dict(), args.save_dir + "model_" + str(number) + ".pth")
""",
    "utils/models.py": """
from torch import nn
class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, args.num_classes)
    def forward(self, images):
        pooled = nn.functional.adaptive_avg_pool2d(images, 4)
        return self.fc(self.norm(pooled.flatten(1)))
def get_model(args):
    return Model(args)
""",
    "utils/datasets.py": """
from torchvision import transforms
from torchvision.datasets import MNIST
def get_full_dataset(name, img_size):
    assert name == "mnist"
    change = transforms.Compose([transforms.Resize(img_size), transforms.ToTensor()])
    return [MNIST("./data/mnist/", train=t, download=True, transform=change) for t in (True, False)]
""",
    "watermark/fingerprint.py": """
def get_embed_layers(model, names):
    return [model.norm]
def get_embed_layers_length(model, names):
    return model.norm.weight.shape[0]
def generate_fingerprints(count, length):
    return list(range(count))
def generate_extracting_matrices(width, length, count):
    return [None] * count
def extracting_fingerprints(layers, fingerprints, matrices):
    return 0.0, max(fingerprints, key=lambda i: float(layers[0].weight[i].detach()))
""",
    "data/pattern/0.png": "",
}

TRAMARK = {
    "src/federated.py": """
import argparse, torch
from aggregation import Aggregation
from models import get_model
parser = argparse.ArgumentParser()
for name in ("data", "aggr", "num_agents", "local_ep", "num_workers"):
    parser.add_argument("--" + name)
args = parser.parse_args()
aggregator = Aggregation()
global_model_list = {}
for number in range(int(args.num_agents)):
    torch.manual_seed(number)
    global_model_list[number] = get_model(args.data).cuda()
""",
    "src/aggregation.py": """
from watermark_utils import loaders
class Aggregation:
    def __init__(self):
        self.class_loaders = loaders()
""",
    "src/models.py": """
from torch import nn
def get_model(data):
    assert data == "fmnist"
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 10))
""",
    "src/watermark_utils.py": """
import torch
from torchvision.datasets import MNIST
def loaders():
    triggers = MNIST("../data", train=False, download=True)
    assert len(triggers) == 1200
    return {i: {"test": triggers.data[triggers.targets == i]} for i in range(10)}
def test_model(model, images):
    right = float(images.float().mean()) + float(model[2].bias.sum())
    return right
""",
    "src/utils.py": """
from torchvision import transforms
from torchvision.datasets import FashionMNIST
def get_datasets(name):
    change = transforms.ToTensor()
    return [FashionMNIST("../data", t, transform=change, download=True) for t in (True, False)]
""",
}


def checkout_of(files: dict[str, str], place: Path) -> Path:
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return place


def run(peer: str, checkout: Path, place: Path) -> subprocess.CompletedProcess[str]:
    module = "benchmarks.peer_checkouts"
    where = [str(checkout), str(place / "work"), "--json", str(place / "rows.json")]
    return subprocess.run(
        [sys.executable, "-m", module, peer, *where],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "files"), [("fedtracker", FEDTRACKER), ("tramark", TRAMARK)])
def test_a_checkout_is_trained_attacked_and_asked_whom_it_names(peer, files, tmp_path):
    checkout = checkout_of(files, tmp_path / "checkout")
    done = run(peer, checkout, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["guilty"] for row in rows] == [10, 5, 5, 10, 10, 10, 15, 25, 0]
    # both always name exactly one, so an innocent model accuses somebody each time
    assert all(row["guilty_named"] + row["innocents_named"] == row["models"] for row in rows)
    assert rows[-1]["innocents_named"] == peer_rows.INNOCENTS
    if peer == "fedtracker":
        assert rows[0]["guilty_named"] == CUSTOMERS
        assert all(row["innocents_named"] == 0 for row in rows[5:8])
    left = {str(p.relative_to(checkout)) for p in checkout.rglob("*") if p.is_file()}
    assert left == set(files)


@pytest.mark.parametrize(
    ("peer", "files", "gone", "message"),
    [
        ("fedtracker", FEDTRACKER, "main.py", "lacks main.py"),
        ("tramark", TRAMARK, "src/aggregation.py", "lacks aggregation.py"),
    ],
)
def test_a_checkout_that_lacks_a_file_is_refused_by_name(peer, files, gone, message, tmp_path):
    kept = {name: content for name, content in files.items() if name != gone}
    checkout = checkout_of(kept, tmp_path / "checkout")
    with pytest.raises(CheckoutError, match=message):
        peer_checkouts.PEERS[peer](checkout, tmp_path / "work", 1)


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ("raise SystemExit('no geneal')", "its training ended with 1: no geneal"),
        ("", r"lacks args.txt, model_0.pth"),
    ],
)
def test_a_training_that_fails_is_refused_with_its_last_line(main, message, tmp_path):
    checkout = checkout_of({**FEDTRACKER, "main.py": main}, tmp_path / "checkout")
    with pytest.raises(CheckoutError, match=message):
        peer_checkouts.FedTracker(checkout, tmp_path / "work", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import geneal_is_missing", "cannot be imported"),
        ("", "has no generate_fingerprints"),
    ],
)
def test_a_checkout_of_another_version_is_refused_in_one_line(content, message, tmp_path):
    files = {**FEDTRACKER, "watermark/fingerprint.py": content}
    done = run("fedtracker", checkout_of(files, tmp_path / "checkout"), tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


class Toy:
    """Ten linear models, each with a mark in one weight; names nobody without any."""

    def __init__(self) -> None:
        inputs = torch.rand(40, 16, generator=torch.Generator().manual_seed(1))
        self.train = self.test = Samples(inputs, torch.arange(40) % 10)
        self.copies: list[nn.Module] = [self._copy(number) for number in range(CUSTOMERS)]

    def _copy(self, number: int) -> nn.Module:
        model = self.fresh(0)
        with torch.no_grad():
            next(model.parameters())[number, number] += 5.0
        return model

    def fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 10))

    def trace(self, model: nn.Module) -> list[int]:
        weight: Tensor = next(model.parameters())
        return [i for i in range(CUSTOMERS) if float(weight[i, i].detach()) > 0.7]


def test_rows_count_traitors_innocents_and_models():
    found = list(peer_rows.rows(Toy()))
    assert [row["models"] for row in found] == [10, 5, 5, 10, 10, 5, 5, 5, 4]
    assert found[0]["guilty_named"] == found[0]["exactly_right"] == 10
    assert [row["guilty_named"] for row in found[5:8]] == [10, 15, 25]
    assert found[-1]["innocents_named"] == 0
    assert found[-1]["exactly_right"] == 4  # nobody was to be named


def test_attacks_leave_the_copies_as_they_are():
    toy = Toy()
    before = [peer_rows.floats(model) for model in toy.copies]
    list(peer_rows.rows(toy))
    for weights, model in zip(before, toy.copies, strict=True):
        for name, array in peer_rows.floats(model).items():
            np.testing.assert_array_equal(array, weights[name])


def test_our_split_is_found_where_torchvision_looks_for_mnist(tmp_path):
    from torchvision.datasets import MNIST  # noqa: PLC0415

    train, test = peer_checkouts.triggers(1), peer_checkouts.triggers(2)
    peer_checkouts.write_mnist(tmp_path / "MNIST" / "raw", train, test)
    read = MNIST(str(tmp_path), train=True, download=False)
    assert torch.equal(read.data, train.pixels[:, 0])
    assert torch.equal(read.targets, train.labels)


def test_a_missing_name_is_told():
    with pytest.raises(CheckoutError, match=r"its thing has no b, c; this harness knows"):
        peer_checkouts.require_names({"a": 1}, ("a", "b", "c"), "thing")
