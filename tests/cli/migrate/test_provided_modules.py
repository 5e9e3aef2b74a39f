"""What handlers may import as `ts`: read from the sources, and so it is when it is imported."""

import pytest

from torchrelay.cli.migrate import provided_modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ts", "torch_handler"),
        ("ts.context", "Context"),
        ("ts.torch_handler.base_handler", "BaseHandler"),
        ("ts.torch_handler.base_handler", "PROFILER_AVAILABLE"),
        ("ts.utils.util", "list_classes_from_module"),
        ("ts.torch_handler.request_envelope", "json"),
    ],
)
def test_what_is_there_is_found(module: str, name: str) -> None:
    assert name in (provided_modules.names_of(module) or ())


@pytest.mark.parametrize("module", ["ts.model_service_worker", "ts.metrics.system_metrics", "ts.nothing"])
def test_what_is_torchserves_own_is_not_there(module: str) -> None:
    assert provided_modules.names_of(module) is None


def test_the_context_has_what_it_has_when_it_is_made() -> None:
    found = provided_modules.context_attributes()
    assert {"manifest", "get_request_id", "metrics.add_time", "system_properties.gpu_id"} <= found
    assert "no_attribute" not in found


def test_packages_are_those_of_all_that_a_module_imports() -> None:
    assert {"torch", "torchvision", "PIL"} <= provided_modules.packages_of(
        "ts.torch_handler.image_classifier"
    )
    assert "torchvision" not in provided_modules.packages_of("ts.torch_handler.base_handler")
