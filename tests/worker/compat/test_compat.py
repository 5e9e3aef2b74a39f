import json
from pathlib import Path

import pytest
from ts.context import Context, RequestProcessor
from ts.handler_utils.timer import timed
from ts.metrics.metrics_cache import MetricsCache
from ts.service import PredictionException
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import (
    check_valid_pt2_backend,
    deprecated,
    list_classes_from_module,
    load_label_mapping,
    map_class_to_label,
)


def make_context(**config: object) -> Context:
    return Context("m", "/", None, 2, None, "0", metrics=MetricsCache("m"), model_yaml_config=dict(config))


def test_a_context_keeps_attributes_that_a_handler_puts_on_it() -> None:
    context = make_context()
    vars(context)["cache"] = {1: 2}
    assert vars(context)["cache"] == {1: 2}


def test_headers_are_looked_up_with_their_letters_case() -> None:
    context = make_context()
    context.request_processor = [RequestProcessor({"X-Own": "1"})]
    assert context.get_request_header(0, "X-Own") == "1"
    assert context.get_request_header(0, "x-own") is None


def test_the_response_of_a_request_reads_back_as_it_was_set() -> None:
    context = make_context()
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "text/csv")
    context.set_response_status(404, "Gone", 1)
    assert context.get_response_content_type(0) == "text/csv"
    assert context.get_response_headers(1) == {}
    assert [context.get_response_status(idx) for idx in range(2)] == [(200, None), (404, "Gone")]


def test_a_prediction_exception_is_a_500_unless_said_otherwise() -> None:
    assert PredictionException("m").error_code == 500
    assert PredictionException("m", 404).message == "m"


class Profiled:
    def __init__(self, context: Context) -> None:
        self.context = context

    @timed
    def inference(self, value: int) -> int:
        return value + 1


@pytest.mark.parametrize(
    ("config", "names"), [({}, []), ({"handler": {"profile": True}}, ["ts_handler_inference"])]
)
def test_methods_are_timed_only_where_the_config_asks(config: dict[str, object], names: list[str]) -> None:
    context = make_context(**config)
    assert Profiled(context).inference(1) == 2
    assert context.metrics is not None
    assert [point.name for point in context.metrics.take_points()] == names


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"0": "cat"}, {"0": "cat"}),
        ({"0": ["n01", "cat"]}, {"0": "cat"}),
        ({"object_type_names": ["cat", "dog"]}, {"0": "cat", "1": "dog"}),
    ],
)
def test_label_mappings_come_in_three_shapes(tmp_path: Path, content: object, expected: object) -> None:
    file = tmp_path / "index_to_name.json"
    file.write_text(json.dumps(content))
    assert load_label_mapping(str(file)) == expected


def test_without_a_label_mapping_classes_are_named_by_number(tmp_path: Path) -> None:
    assert load_label_mapping(str(tmp_path / "none.json")) is None
    assert map_class_to_label([[0.25, 0.75]]) == [{"0": 0.25, "1": 0.75}]
    assert map_class_to_label([[0.75]], {"1": "dog"}, [[1]]) == [{"dog": 0.75}]


def test_only_a_modules_own_classes_are_listed() -> None:
    import ts.torch_handler.base_handler as module

    assert list_classes_from_module(module) == [BaseHandler]
    assert list_classes_from_module(module, Context) == []


def test_backends_of_torch_compile_are_known_by_name() -> None:
    assert check_valid_pt2_backend("inductor")
    assert not check_valid_pt2_backend("nonsense")


def test_a_deprecated_function_still_works_and_warns() -> None:
    @deprecated("1.0", "other")
    def old(value: int) -> int:
        return value

    with pytest.warns(PendingDeprecationWarning, match=r"old is deprecated in 1\.0 and moved to other"):
        assert old(3) == 3


@pytest.mark.parametrize(
    ("pt2", "expected"),
    [
        (None, None),
        ("inductor", {"backend": "inductor"}),
        ({"backend": "eager", "mode": "x"}, {"backend": "eager", "mode": "x"}),
        ({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}),
        ({"compile": {"enable": False, "backend": "eager"}}, None),
        ({"export": {"aot_compile": True}}, None),
    ],
)
def test_torch_compile_is_configured_in_both_ways(pt2: object, expected: object) -> None:
    handler = BaseHandler()
    handler.model_yaml_config = {"pt2": pt2}
    assert handler._compile_options() == expected


def test_a_base_handler_without_weights_says_so() -> None:
    with pytest.raises(RuntimeError, match="No model weights could be loaded"):
        BaseHandler().initialize(make_context())


class Explaining(BaseHandler):
    def preprocess(self, data: object) -> object:
        return data

    def get_insights(self, tensor: object, inputs: object, target: int) -> list[object]:
        return [inputs, target]


def test_a_base_handler_explains_through_its_subclass() -> None:
    context = make_context()
    context.request_processor = [RequestProcessor({"explain": "True"})]
    assert Explaining().handle([{"data": "d", "target": 2}], context) == ["d", 2]


def test_a_base_handler_describes_instead_of_predicting() -> None:
    context = make_context()
    context.request_processor = [RequestProcessor({"describe": "True"})]
    assert BaseHandler().handle([{}], context) == [None]


def test_a_status_may_be_reported_without_a_phrase() -> None:
    processor = RequestProcessor({})
    processor.report_status(404)
    assert (processor.get_response_status_code(), processor.get_response_status_phrase()) == (404, None)
