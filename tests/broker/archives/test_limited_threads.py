"""Who gets a place when there are few."""

import threading
from functools import partial

from torchrelay.broker.archives.limited_threads import PlacedThreads, Places, Work
from torchrelay.shared import clock


def nothing() -> None:
    pass


def asked(places: Places, *origins: str) -> list[str]:
    for origin in origins:
        places.ask(origin, nothing)
    return [origin for origin, _ in places.take()]


def test_one_origin_can_not_take_all_places() -> None:
    places = Places(4, 2)
    assert asked(places, *"aaaaaaabc") == ["a", "b", "c", "a"]
    assert places.running == 4


def test_origins_take_turns_and_each_keeps_its_order() -> None:
    places, done = Places(1, 1), list[str]()
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        places.ask(name[0], partial(done.append, name))
    for _ in range(6):
        [(origin, work)] = places.take()
        work()
        places.leave(origin)
    assert done == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_places_are_given_in_order_and_given_back() -> None:
    places = Places(2, 1)
    assert asked(places, *"aabc") == ["a", "b"]
    places.leave("b")
    assert asked(places) == ["c"]
    places.leave("a")
    assert asked(places) == ["a"]
    places.leave("a")
    places.leave("c")
    assert (places.running, asked(places)) == (0, [])


def test_nobody_waits_for_work_that_does_not_end() -> None:
    threads = PlacedThreads(2, 1, "test")
    released, began, seen = threading.Event(), threading.Event(), []

    def hang() -> None:
        began.set()
        released.wait(10)

    threads.submit("a", hang)
    threads.submit("a", lambda: seen.append("never"))
    done = threading.Event()
    threads.submit("b", done.set)
    assert done.wait(5)
    assert began.wait(5)
    assert not threads.close(clock.monotonic() + 0.05)
    released.set()
    assert threads.close(clock.monotonic() + 5)
    threads.submit("b", lambda: seen.append("closed"))
    assert not seen


def test_work_for_which_there_is_no_thread_keeps_no_place_and_waits() -> None:
    has_threads = False

    def start(name: str, work: Work) -> None:
        if not has_threads:
            raise RuntimeError("can't start new thread")
        work()

    done: list[str] = []
    threads = PlacedThreads(2, 1, "test", start)
    for name in "abc":
        threads.submit(name, partial(done.append, name))
    assert not done
    has_threads = True
    threads.submit("d", partial(done.append, "d"))
    assert sorted(done) == ["a", "b", "c", "d"]
