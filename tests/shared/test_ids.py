"""Identifiers and keys that are drawn."""

import os
import uuid

from torchrelay.shared import ids
from torchrelay.shared.settings import is_guessable_key


def test_no_key_looks_like_an_option_of_a_command() -> None:
    drawn = [ids.secret() for _ in range(5000)]
    assert not [key for key in drawn if key.startswith("-")]
    assert len(set(drawn)) == len(drawn)
    assert {len(key) for key in drawn} == {32}
    assert not any(map(is_guessable_key, drawn))


def test_request_ids_are_uuids_of_version_4_over_many_draws() -> None:
    drawn = [ids.request_id() for _ in range(2000)]
    assert len(set(drawn)) == len(drawn)
    for text in drawn:
        made = uuid.UUID(text)
        assert str(made) == text
        assert (made.version, made.variant) == (4, uuid.RFC_4122)


def test_a_forked_process_gives_out_none_of_its_parents_ids() -> None:
    ids.request_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ids.request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        os.close(writer)
        theirs = pipe.read().decode()
    assert theirs not in {ids.request_id() for _ in range(600)}


def test_a_routing_id_begins_with_the_role_and_is_another_each_time() -> None:
    first, second = ids.routing_id("worker"), ids.routing_id("worker")
    assert (first[:1], len(first)) == (b"w", 17)
    assert first != second


def test_a_log_shows_a_peer_without_what_would_let_others_be_it() -> None:
    routing_id = ids.routing_id("node")
    shown = ids.shown_peer(routing_id)
    assert shown == ids.shown_peer(routing_id)
    assert routing_id.hex() not in shown
    assert len(shown) == 12


def test_sequences_and_folders_have_their_forms() -> None:
    assert ids.sequence_id().startswith("ts-seq-")
    assert len({ids.folder_suffix() for _ in range(10)}) == 10
    assert 0 <= ids.seed() < 1 << 32
