"""The catalog's lists are in TorchServe's order, which is that of Java's hash maps."""

import pytest

from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.records import Snapshot, VersionRecord
from torchrelay.shared.errors import ModelNotFound


@pytest.mark.parametrize(
    "versions",
    [["1.0", "2.0", "3.1.4-rc1"], ["1.2.1", "1.11"], ["1.0", "1.1", "2.0", "1.2"]],
    ids=["by number", "not by number", "mixed"],
)
def test_versions_come_in_the_order_in_which_torchserve_lists_them(versions: list[str]) -> None:
    records = tuple(
        VersionRecord("m", version, "m.mar", "sha", 10, "h", "python", 0, 0, 1, 100, 120, 120, False)
        for version in sorted(versions)
    )
    catalog = Catalog(Snapshot(versions=records, defaults=(("m", records[0].version),)))
    assert [found.version for found in catalog.versions_of("m")] == versions


def test_of_a_long_name_that_is_unknown_little_is_repeated() -> None:
    catalog = Catalog(Snapshot())
    with pytest.raises(ModelNotFound) as caught:
        catalog.resolve("m" * 8000, None)
    assert len(str(caught.value)) < 250
