"""A participant's number belongs to one node."""

from smdl_flower.flower.seats import Seats


def test_two_nodes_that_claim_a_free_number_are_both_refused():
    seats = Seats()
    refused = seats.take({5: "000001", 7: "000001", 9: "000002"})
    assert refused == dict.fromkeys((5, 7), "nodes 5 and 7 all say that they are participant 1")
    assert (seats.of(5), seats.of(9)) == (None, "000002")


def test_a_number_that_is_taken_stays_its_nodes():
    seats = Seats()
    assert seats.take({5: "000001"}) == {}
    assert seats.take({5: "000001", 7: "000001"}) == {
        7: "it says that it is participant 1, who is node 5"
    }
    assert seats.take({7: "000001"}) == {7: "it says that it is participant 1, who is node 5"}


def test_a_node_keeps_its_number():
    seats = Seats()
    seats.take({5: "000001"})
    assert seats.take({5: "000003"}) == {5: "it says that it is participant 3, and was 1"}
    assert seats.of(5) == "000001"


def test_a_number_that_nobody_got_is_free_in_the_next_round():
    seats = Seats()
    seats.take({5: "000001", 7: "000001"})
    assert seats.take({5: "000001"}) == {}
