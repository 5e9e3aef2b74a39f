"""Only a process that outlives the one before it can tell what that one told."""

from pathlib import Path

from torchrelay.worker.node.succession import Succession


def test_the_next_node_of_a_name_tells_the_same_once_the_first_has_ended(tmp_path: Path) -> None:
    first = Succession(tmp_path, "n")
    mark = first.mark
    assert mark
    assert Succession(tmp_path, "n").mark == "", (
        "while the first lives, nobody else can prove that it doesn't"
    )
    first.close()
    assert Succession(tmp_path, "n").mark == mark


def test_nodes_of_other_names_caches_and_starts_of_the_host_tell_something_else(tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.write_text("after a restart of the host\n")
    places = [(tmp_path / "a", "n"), (tmp_path / "a", "other"), (tmp_path / "b", "n")]
    marks = []
    for cache, name in places:
        node = Succession(cache, name)
        marks.append(node.mark)
        node.close()
    restarted = Succession(tmp_path / "a", "n", boot)
    marks.append(restarted.mark)
    assert all(marks)
    assert len(set(marks)) == len(marks)


def test_nothing_is_told_where_nothing_can_be_known(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a file where the folder should be")
    assert Succession(tmp_path, "n").mark == ""
    assert Succession(tmp_path / "c", "n", tmp_path / "no-such-kernel").mark == ""
