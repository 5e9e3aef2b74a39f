import gc

from torchrelay.shared.processes.lasting_imports import lasting_imports


def test_what_is_imported_inside_is_never_looked_at_by_the_collector() -> None:
    before = gc.get_freeze_count()
    try:
        with lasting_imports():
            is_looking = gc.isenabled()
            made: list[list[int]] = [[] for _ in range(1000)]
        assert (is_looking, gc.isenabled()) == (False, True)
        assert gc.get_freeze_count() >= before + len(made)
    finally:
        gc.unfreeze()
