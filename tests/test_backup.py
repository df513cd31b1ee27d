"""A backup brings back all of a home, and nothing that was altered, hostile or out of date."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smdl_flower import (
    backup,
    checking,
    commitments,
    files,
    issuing,
    keyfile,
    models,
    rotation,
    verifying,
    weights,
)
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import HomeError, IntegrityError, OutputExistsError, SmdlError
from smdl_flower.flower.marking import OwnerMarker
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.passphrase_file import Reader, Writer
from smdl_flower.weights import Weights

WORDS = "of the backup"
UNCHECKED = FidelityGate(images=None, max_accuracy_drop=0.0)


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)


@pytest.fixture
def home(home_copy: OwnerHome, spec: ModelSpec, base: Weights) -> OwnerHome:
    """Two keys, a base model with eight copies, a model sent in training, a log of questions."""
    home = rotation.rotate(home_copy.path, None).home
    OwnerMarker(home, spec, "run", 0.1).open(1, base, [4])
    files.write(home.path / "asked" / f"{'0' * 16}-1-{'1' * 16}.jsonl", b"{}\n")
    files.write(commitments.directory(home) / "000001.tsr", b"a stamp")
    (home.path / "runs").mkdir()
    (home.path / "runs" / "note").write_bytes(b"not to be kept")
    return home


@pytest.fixture
def file(home: OwnerHome, tmp_path: Path) -> Path:
    backup.back_up(home.path, None, tmp_path / "home.backup", WORDS)
    return tmp_path / "home.backup"


def newest_of(home: OwnerHome) -> str:
    return commitments.of_home(home)[-1].digest


def contents(home: OwnerHome, without: tuple[str, ...]) -> dict[str, bytes]:
    paths = [path for path in home.path.rglob("*") if path.is_file() and path.name not in without]
    return {path.relative_to(home.path).as_posix(): path.read_bytes() for path in paths}


def test_everything_comes_back(
    home: OwnerHome, file: Path, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    done = backup.restore(file, tmp_path / "new", WORDS, newest=newest_of(home))
    rebuilt = ("registry.db", "home.json", "note")
    assert contents(done.home, rebuilt) == contents(home, rebuilt)
    assert done.home.keys == home.keys
    assert done.home.registry.export() == home.registry.export()
    assert dataclasses.asdict(done.findings) == {
        "keys": 2,
        "customers": 8,
        "models": 1,
        "copies": 8,
        "broadcasts": 1,
        "commitments": 3,
        "newest_commitment": newest_of(home),
        "remarks": (),
    }
    verdict = verifying.verify(done.home, copy_paths["clinic-d"])
    assert [a.customer for a in verdict.accused] == ["clinic-d"]
    for path in (done.home.path, *done.home.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_restored_home_goes_on_where_the_other_was(
    home: OwnerHome,
    file: Path,
    spec: ModelSpec,
    base: Weights,
    fingerprint_config: FingerprintConfig,
    copy_paths: dict[str, Path],
    tmp_path: Path,
) -> None:
    again = backup.restore(file, tmp_path / "new", WORDS, newest=newest_of(home)).home
    again.registry.add_customers(["newcomer"])
    campaign = issuing.open_campaign(again, spec, base, fingerprint_config, UNCHECKED)
    new, old = issuing.issue(again, campaign, ["newcomer", "clinic-a"], tmp_path / "issued")
    assert old.sha256 == weights.digest(weights.read(copy_paths["clinic-a"]).weights)
    assert new.path
    assert len(commitments.of_home(again)) == len(commitments.of_home(home)) + 1


def test_the_file_is_private_shows_nothing_and_is_never_overwritten(
    home: OwnerHome, file: Path
) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = file.read_bytes()
    for name in (b"clinic-a", b"master.key", b"registry", home.keys[0].secret, b'"format"'):
        assert name not in content
    with pytest.raises(OutputExistsError):
        backup.back_up(home.path, None, file, WORDS)
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.glob(".*")] == []


def test_a_home_with_a_passphrase_keeps_it_in_the_backup(home: OwnerHome, tmp_path: Path) -> None:
    rotation.change_passphrase(home.path, None, "of the home")
    with pytest.raises(HomeError, match="encrypted"):
        backup.back_up(home.path, None, tmp_path / "b", WORDS)
    assert not (tmp_path / "b").exists()
    backup.back_up(home.path, "of the home", tmp_path / "b", WORDS)
    with pytest.raises(HomeError, match="encrypted"):
        backup.restore(tmp_path / "b", tmp_path / "new", WORDS)
    with pytest.raises(HomeError, match="wrong passphrase"):
        backup.restore(tmp_path / "b", tmp_path / "new", WORDS, passphrase=lambda _: WORDS)
    assert [path.name for path in tmp_path.glob("*new*")] == []
    done = backup.restore(
        tmp_path / "b", tmp_path / "new", WORDS, passphrase=lambda _: "of the home"
    )
    assert done.home.keys == home.keys


@pytest.mark.parametrize("obstacle", ["a home", "a file", "a file in it"])
def test_a_target_that_is_not_empty_is_left_as_it_is(
    home: OwnerHome, file: Path, tmp_path: Path, obstacle: str
) -> None:
    target = tmp_path / "target"
    match obstacle:
        case "a home":
            OwnerHome.create(target)
        case "a file":
            target.write_bytes(b"precious")
        case _:
            target.mkdir()
            (target / ".keep").write_bytes(b"precious")
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    with pytest.raises(OutputExistsError, match="already exists"):
        backup.restore(file, target, WORDS)
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(file: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir(mode=0o755)
    assert backup.restore(file, tmp_path / "new", WORDS).findings.customers == 8


# --------------------------------------------------------------------------------- others at work


def test_a_backup_made_while_others_issue_is_consistent(
    home: OwnerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A customer and a statement come after the registry was read: one more than that knows of."""
    real, other = home.registry.export, OwnerHome.open(home.path)

    def export_then_work(*_: Any) -> Any:
        done = real()
        other.registry.add_customers(["meanwhile"])
        commitments.publish(other, other.base_models()[0])
        return done

    monkeypatch.setattr(type(home.registry), "export", export_then_work)
    backup.back_up(home.path, None, tmp_path / "b", WORDS)
    done = backup.restore(tmp_path / "b", tmp_path / "new", WORDS)
    assert done.findings.customers == 8
    assert done.findings.commitments == 4
    assert OwnerHome.open(home.path).registry.customers()[-1] == "meanwhile"


def test_a_damaged_home_is_not_backed_up(home: OwnerHome, tmp_path: Path) -> None:
    with sqlite3.connect(home.path / "registry.db") as connection:
        connection.execute("update smdl_registry_1 set body = '{}' where number = 2")
    with pytest.raises(IntegrityError):
        backup.back_up(home.path, None, tmp_path / "b", WORDS)
    assert not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------- older states


@pytest.fixture
def later(
    home: OwnerHome,
    file: Path,
    spec: ModelSpec,
    base: Weights,
    fingerprint_config: FingerprintConfig,
    tmp_path: Path,
) -> str:
    """After the backup a customer is added and given a copy; the commitment that was published."""
    home.registry.add_customers(["after"])
    campaign = issuing.open_campaign(home, spec, base, fingerprint_config, UNCHECKED)
    assert all(r.path for r in issuing.issue(home, campaign, ["after"], tmp_path / "later"))
    return newest_of(home)


def test_a_backup_that_is_older_than_what_was_published_is_refused(
    file: Path, later: str, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError, match="older state"):
        backup.restore(file, tmp_path / "new", WORDS, newest=later)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("later")
def test_who_does_not_say_what_was_published_can_trace_and_not_issue(
    file: Path,
    spec: ModelSpec,
    base: Weights,
    fingerprint_config: FingerprintConfig,
    copy_paths: dict[str, Path],
    tmp_path: Path,
) -> None:
    """So no second chain of commitments begins, and no copy is issued twice."""
    home = backup.restore(file, tmp_path / "new", WORDS).home
    before = contents(home, ())
    verdict = verifying.verify(home, copy_paths["clinic-a"])
    assert [a.customer for a in verdict.accused] == ["clinic-a"]
    assert any("what was issued since is not known" in remark for remark in verdict.remarks)
    unknown = verifying.verify(home, tmp_path / "later" / "after.safetensors")
    assert unknown.accused == ()
    assert any("what was issued since is not known" in remark for remark in unknown.remarks)
    known = issuing.open_campaign(home, spec, base, fingerprint_config, UNCHECKED)
    new = models.to_weights(models.build(spec, seed=8))
    attempts: list[Callable[[], object]] = [
        lambda: home.registry.add_customers(["after"]),
        lambda: rotation.rotate(home.path, None),
        lambda: commitments.publish_rotation(
            dataclasses.replace(home, keys=(*home.keys, *home.keys))
        ),
        lambda: list(issuing.issue(home, known, ["clinic-a"], tmp_path / "twice")),
        lambda: issuing.open_campaign(home, spec, new, fingerprint_config, UNCHECKED),
    ]
    for attempt in attempts:
        with pytest.raises(HomeError, match="--newest"):
            attempt()
    assert not list((tmp_path / "twice").glob("*.safetensors"))
    after = contents(home, ())
    unrecorded = weights.digest(new)[:16]  # of the last attempt; no verdict rests on it
    assert {name: after[name] for name in after if unrecorded not in name} == before


def test_files_put_back_by_hand_are_found_out_by_what_was_published(
    home: OwnerHome, tmp_path: Path
) -> None:
    shutil.copytree(home.path, tmp_path / "old")
    home.registry.add_customers(["after"])
    commitments.publish(home, home.base_models()[0])
    published = newest_of(home)
    assert checking.check(home, published).customers == 9
    old = OwnerHome.open(tmp_path / "old")
    assert checking.check(old).customers == 8  # all in order, in itself
    with pytest.raises(IntegrityError, match="older state"):
        checking.check(old, published)
    # Only a part of it: the registry and the commitments know of each other.
    shutil.rmtree(home.path / "commitments")
    shutil.copytree(old.path / "commitments", home.path / "commitments")
    with pytest.raises(IntegrityError, match="statements that the registry says"):
        checking.check(home)


# --------------------------------------------------------------------------- altered and hostile


def test_a_wrong_passphrase_a_cut_and_a_changed_byte_are_one_clear_error(
    file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    with pytest.raises(HomeError, match="wrong passphrase"):
        backup.restore(file, tmp_path / "new", "another")
    places = [0, 5, 20, 40, 1 << 20, len(content) // 2, len(content) - 1]
    for place in places:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises((IntegrityError, HomeError)):
            backup.restore(file, tmp_path / "new", WORDS)
        file.write_bytes(content[:place])
        with pytest.raises((IntegrityError, HomeError)):
            backup.restore(file, tmp_path / "new", WORDS)
    assert [path.name for path in tmp_path.glob("*new*")] == []


def unsealed(file: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with file.open("rb") as stream:
        reader = Reader(stream, file, b"smdl-backup/1\n", WORDS)
        index = json.loads(reader.read(int.from_bytes(reader.read(8), "big")))
        return index, {e["path"]: reader.read(e["size"]) for e in index["files"]}


def forge(file: Path, index: dict[str, Any], parts: list[bytes]) -> None:
    """By somebody who knows the backup's passphrase, but has no master key."""
    with file.open("wb") as stream:
        writer = Writer(stream, b"smdl-backup/1\n", WORDS)
        content = json.dumps(index).encode()
        writer.write(len(content).to_bytes(8, "big") + content + b"".join(parts))
        writer.close()


def entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_rewriting_a_backup_as_it_is_restores_it(file: Path, tmp_path: Path) -> None:
    """The control of the forgeries below."""
    index, parts = unsealed(file)
    forge(file, index, list(parts.values()))
    assert backup.restore(file, tmp_path / "new", WORDS).findings.copies == 8


@pytest.mark.parametrize(
    "path",
    [
        "../escaped",
        "/var/escaped",
        "vault/../../escaped",
        "vault/0123456789abcdef/../../../escaped",
        "master.key/x",
        "home.json",
        "registry.db",
        "runs/x",
        "commitments/000001.json\n",
        "commitments/000001.json\x00",
        "asked/../x.jsonl",
        "",
        ".",
        "vault",
    ],
)
def test_a_file_goes_nowhere_else(file: Path, tmp_path: Path, path: str) -> None:
    index, parts = unsealed(file)
    index["files"].append(entry(path, b"evil"))
    forge(file, index, [*parts.values(), b"evil"])
    before = sorted(p.as_posix() for p in tmp_path.rglob("*"))
    with pytest.raises(IntegrityError, match="not a whole"):
        backup.restore(file, tmp_path / "new", WORDS)
    assert sorted(p.as_posix() for p in tmp_path.rglob("*")) == before
    assert not Path("/var/escaped").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i["files"][0].update(size=1 << 60),
        lambda i: i["files"][0].update(size=-1),
        lambda i: i["files"][0].update(size=1.5),
        lambda i: i["files"][0].update(size=True),
        lambda i: i["files"].append(i["files"][0]),
        lambda i: i["files"].pop(),
        lambda i: i.update(format="smdl-backup/2"),
        lambda i: i.update(created_at="soon"),
        lambda i: i.update(files={}),
        lambda i: i.clear(),
        lambda i: i["files"][1].update(path=["x"]),
    ],
)
def test_an_index_that_lies_is_refused(
    file: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    index, parts = unsealed(file)
    change(index)
    forge(file, index, list(parts.values()))
    with pytest.raises(IntegrityError):
        backup.restore(file, tmp_path / "new", WORDS)
    assert not (tmp_path / "new").exists()


def test_a_length_beyond_the_file_is_not_reserved(file: Path, tmp_path: Path) -> None:
    with file.open("wb") as stream:
        writer = Writer(stream, b"smdl-backup/1\n", WORDS)
        writer.write((1 << 62).to_bytes(8, "big") + b"{}")
        writer.close()
    with pytest.raises(IntegrityError):
        backup.restore(file, tmp_path / "new", WORDS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_a_hostile_backup_ends_in_our_own_error_or_in_a_whole_home(
    file: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Its maker knows the passphrase and writes what it likes: index, order, contents."""
    index, parts = unsealed(file)
    kept = file.read_bytes()
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    )
    match data.draw(st.sampled_from(["index", "entry", "content", "all"])):
        case "index":
            index[data.draw(st.sampled_from(sorted(index)))] = data.draw(json_values)
        case "entry":
            place = data.draw(st.integers(0, len(index["files"]) - 1))
            key = data.draw(st.sampled_from(["path", "size", "sha256"]))
            index["files"][place][key] = data.draw(json_values)
        case "content":
            name = data.draw(st.sampled_from(sorted(parts)))
            parts[name] = data.draw(st.binary(max_size=300))
            index["files"] = [entry(path, content) for path, content in parts.items()]
        case _:
            index = data.draw(st.dictionaries(st.text(max_size=10), json_values))
    target = tmp_path / "new"
    forge(file, index, list(parts.values()))
    with contextlib.suppress(SmdlError):
        assert checking.check(backup.restore(file, target, WORDS).home).copies == 8
        shutil.rmtree(target)
    file.write_bytes(kept)
    assert [path.name for path in tmp_path.glob("*new*")] == []


def _cut_registry(parts: dict[str, bytes]) -> None:
    parts["registry.jsonl"] = parts["registry.jsonl"].rsplit(b"\n", 2)[0] + b"\n"


def _swap_customers(parts: dict[str, bytes]) -> None:
    text = parts["registry.jsonl"]
    parts["registry.jsonl"] = text.replace(b"clinic-a", b"clinic-?").replace(b"?", b"z")


def _empty_registry(parts: dict[str, bytes]) -> None:
    parts["registry.jsonl"] = b""


def _nonsense_registry(parts: dict[str, bytes]) -> None:
    parts["registry.jsonl"] = b'{"number": 0}\n'


def _no_commitment(parts: dict[str, bytes]) -> None:
    del parts["commitments/000003.json"]


def _other_commitment(parts: dict[str, bytes]) -> None:
    parts["commitments/000003.json"] = parts["commitments/000002.json"]


def _no_base(parts: dict[str, bytes]) -> None:
    del parts[next(name for name in parts if name.endswith("base.safetensors"))]


def _other_base(parts: dict[str, bytes]) -> None:
    name = next(name for name in parts if name.endswith("base.safetensors"))
    parts[name] = parts[name][:-4] + b"\x00\x00\x80\x3f"


def _other_manifest(parts: dict[str, bytes]) -> None:
    name = next(name for name in parts if name.endswith("model.json"))
    parts[name] += b" "


def _no_broadcast(parts: dict[str, bytes]) -> None:
    del parts[next(name for name in parts if "broadcasts" in name)]


def _one_key(parts: dict[str, bytes]) -> None:
    ring = json.loads(parts["master.key"])
    first = keyfile._decode(ring["key"])[:32]
    parts["master.key"] = json.dumps(
        {"format": "smdl-key/1", "key": keyfile._encode(first)}
    ).encode()


def _no_key(parts: dict[str, bytes]) -> None:
    del parts["master.key"]


def _no_head(parts: dict[str, bytes]) -> None:
    del parts["registry.head"]


@pytest.mark.parametrize(
    "change",
    [
        _cut_registry,
        _swap_customers,
        _empty_registry,
        _nonsense_registry,
        _no_commitment,
        _other_commitment,
        _no_base,
        _other_base,
        _other_manifest,
        _no_broadcast,
        _one_key,
        _no_key,
        _no_head,
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_what_does_not_fit_together_is_not_restored(
    file: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    """Even if the file itself is in order: its maker knew the passphrase."""
    index, parts = unsealed(file)
    change(parts)
    index["files"] = [entry(path, content) for path, content in parts.items()]
    forge(file, index, list(parts.values()))
    with pytest.raises(SmdlError) as refusal:
        backup.restore(file, tmp_path / "new", WORDS)
    assert refusal.value.exit_code in (2, 4)
    assert [path.name for path in tmp_path.glob("*new*")] == []


def test_a_registry_elsewhere_is_filled_or_must_go_on_from_the_backup(
    home: OwnerHome, file: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    newest = newest_of(home)
    first = backup.restore(file, tmp_path / "new", WORDS, registry_url=url, newest=newest).home
    assert not (first.path / "registry.db").exists()
    first.registry.add_customers(["newcomer"])
    second = backup.restore(file, tmp_path / "second", WORDS, registry_url=url, newest=newest).home
    assert second.registry.customers()[-1] == "newcomer"
    assert json.loads((second.path / "registry.head").read_bytes())["entries"] == len(
        second.registry.export().rows
    )
    other = OwnerHome.create(tmp_path / "other", registry_url=f"sqlite:///{tmp_path}/other.db")
    other.registry.add_customers(["theirs"])
    with pytest.raises(IntegrityError):
        backup.restore(
            file, tmp_path / "third", WORDS, registry_url=f"sqlite:///{tmp_path}/other.db"
        )
    assert other.registry.customers() == ("theirs",)
