"""What was committed to cannot be changed, left out or put in earlier."""

import json

import pytest

from smdl_flower import commitments, files, merkle, signing
from smdl_flower.errors import IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel


@pytest.fixture
def model(home_copy: OwnerHome) -> BaseModel:
    (model,) = home_copy.base_models()
    return model


@pytest.fixture
def home(home_copy: OwnerHome) -> OwnerHome:
    return home_copy


def test_issuing_has_committed_to_owner_model_and_customers(
    home: OwnerHome, model: BaseModel
) -> None:
    owner, campaign = commitments.of_home(home)
    assert owner.subjects == {"key": home.key.commitment()}
    assert owner.predicate["public_key"] == home.key.signing_key().public
    assert campaign.subjects["base"] == model.digest
    assert campaign.predicate["customers"] == len(home.registry.customers())
    assert campaign.predicate["previous"] == owner.digest


def test_every_customers_key_opens_in_the_tree_and_no_other(
    home: OwnerHome, model: BaseModel
) -> None:
    campaign, names = model.key(home.key), home.registry.customers()
    leaves = [commitments.leaf(campaign.customer(name)) for name in names]
    stated = commitments.of_home(home)[-1].predicate
    for index, name in enumerate(names):
        path = merkle.proof(leaves, index)
        own = commitments.leaf(campaign.customer(name))
        assert merkle.check(own, index, len(names), path) == bytes.fromhex(stated["merkle_root"])
        other = commitments.leaf(OwnerKey(bytes(32)).campaign(model.digest).customer(name))
        assert merkle.check(other, index, len(names), path) != bytes.fromhex(stated["merkle_root"])


def test_the_same_again_adds_nothing_a_new_customer_does(home: OwnerHome, model: BaseModel) -> None:
    before = commitments.of_home(home)
    assert commitments.publish(home, model) == before[-1]
    assert len(commitments.of_home(home)) == 2
    home.registry.add_customers(["newcomer"])
    added = commitments.publish(home, model)
    assert added.predicate["customers"] == before[-1].predicate["customers"] + 1
    assert added.predicate["previous"] == before[-1].digest
    assert [c.digest for c in commitments.of_home(home)[:2]] == [c.digest for c in before]


def test_no_name_no_key_and_no_weight_is_in_a_statement(home: OwnerHome, model: BaseModel) -> None:
    text = b"".join(c.envelope for c in commitments.of_home(home))
    text += b"".join(json.dumps(c.predicate).encode() for c in commitments.of_home(home))
    campaign = model.key(home.key)
    for name in home.registry.customers():
        assert name.encode() not in text
        assert campaign.customer(name).secret.hex().encode() not in text
    for secret in (home.key.secret, campaign.secret, *campaign.open(["payload"]).secrets.values()):
        assert secret.hex().encode() not in text


def test_a_chain_with_a_gap_a_swap_or_another_signer_is_refused(
    home: OwnerHome, model: BaseModel
) -> None:
    home.registry.add_customers(["newcomer"])
    commitments.publish(home, model)
    public = home.key.signing_key().public
    one, two, three = (c.envelope for c in commitments.of_home(home))
    assert len(commitments.check_chain([one, two, three], public)) == 3
    for wrong in ([one, three], [one, three, two], [two, three], [two], [one, two, two]):
        with pytest.raises(IntegrityError):
            commitments.check_chain(wrong, public)
    with pytest.raises(IntegrityError, match="not signed by key"):
        commitments.check_chain([one, two], OwnerKey(bytes(32)).signing_key().public)


def test_a_statement_that_is_put_in_earlier_does_not_fit(home: OwnerHome, model: BaseModel) -> None:
    """By the owner itself, who can sign anything: the published digest gives it away."""
    published = commitments.of_home(home)[-1].digest
    owner, campaign = commitments.of_home(home)
    forged = home.key.signing_key().sign(
        {"base": "ab" * 32}, commitments.CAMPAIGN_KIND, {"previous": owner.digest}
    )
    again = home.key.signing_key().sign(
        campaign.subjects,
        commitments.CAMPAIGN_KIND,
        {**campaign.predicate, "previous": signing.digest(forged)},
    )
    chain = commitments.check_chain([owner.envelope, forged, again], home.key.signing_key().public)
    assert published not in [c.digest for c in chain]


def test_a_damaged_chain_stops_issuing(home: OwnerHome, model: BaseModel) -> None:
    path = commitments.directory(home) / "000002.json"
    files.write(path, path.read_bytes().replace(b"payload", b"paylood", 1))
    with pytest.raises(IntegrityError):
        commitments.publish(home, model)
