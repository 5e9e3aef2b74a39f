from torchrelay.broker.fleet.rounds import Rounds


def test_each_round_has_everything_in_parts_and_in_order() -> None:
    items = list("abcde")
    rounds = Rounds(lambda: items, 2)
    assert not rounds.left
    parts = [rounds.next_part() for _ in range(4)]
    assert parts == [["a", "b"], ["c", "d"], ["e"], ["a", "b"]]
    assert rounds.left


def test_what_comes_in_a_round_is_in_the_next() -> None:
    items = ["a", "b", "c"]
    rounds = Rounds(lambda: items, 2)
    assert rounds.next_part() == ["a", "b"]
    items[:] = ["d"]
    assert [rounds.next_part(), rounds.next_part()] == [["c"], ["d"]]
    assert not rounds.left


def test_a_round_can_begin_anew() -> None:
    rounds = Rounds(lambda: "abc", 2)
    rounds.next_part()
    rounds.begin()
    assert rounds.next_part() == ["a", "b"]


def test_nothing_is_a_round_as_well() -> None:
    assert Rounds(tuple, 2).next_part() == []
