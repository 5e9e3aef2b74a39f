"""The handlers of images, with random weights, against the same computed by hand."""

import base64
import functools
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.handlers import ask, load_handler, make_folder
from tests.worker.vision import import_torchvision

torchvision = import_torchvision()
image_library = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.usefixtures("imports")

CLASSES = 7
LABELS = {str(index): f"label-{index}" for index in range(CLASSES)}
CLASSIFIER = """
    import torchvision

    class Net(torchvision.models.ShuffleNetV2):
        def __init__(self):
            super().__init__([4, 8, 4], [24, 48, 96, 192, 1024], num_classes=7)
"""
SEGMENTER = """
    import torch, torchvision

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=4)

        def forward(self, images):
            return self.net(images)
"""
DETECTOR = """
    import torch

    class Net(torch.nn.Module):
        '''Finds three boxes in each image; their scores depend on its mean colour.'''

        def __init__(self):
            super().__init__()
            self.score = torch.nn.Linear(3, 3)

        def forward(self, images):
            boxes = torch.tensor([[0., 0., 4., 5.], [1., 2., 3., 4.], [2., 2., 6., 6.]])
            scores = torch.sigmoid(self.score(images.mean(dim=(2, 3))))
            labels = torch.tensor([1, 2, 1])
            return [{"boxes": boxes, "labels": labels, "scores": score} for score in scores]
"""


@functools.cache
def picture(seed: int, size: tuple[int, int] = (300, 260)) -> bytes:
    """Return a PNG of smooth random colours."""
    torch.manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5)
    pixels = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0]
    image = image_library.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def prepared(*pictures: bytes) -> torch.Tensor:
    """Resize the shorter side to 256, crop the middle 224, scale to 0..1, normalize; written out by hand."""
    tensors = []
    for content in pictures:
        image = image_library.open(io.BytesIO(content))
        width, height = image.size
        scale = 256 / min(width, height)
        image = image.resize((int(width * scale), int(height * scale)), image_library.BILINEAR)
        left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
        image = image.crop((left, top, left + 224, top + 224))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(224, 224, 3)
        channels = pixels.permute(2, 0, 1).float() / 255
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        tensors.append((channels - mean[:, None, None]) / deviation[:, None, None])
    return torch.stack(tensors)


@functools.cache
def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    net: torch.nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # so that one pass is enough for outputs that differ
    net(torch.rand(4, 3, 64, 64))
    return net.eval()


def make_classifier(folder: Path, **changes: Any) -> tuple[Path, torch.nn.Module]:
    source = textwrap.dedent(CLASSIFIER)
    return make_folder(folder, classifier(), source, **{"labels": LABELS, **changes}), classifier()


def likeliest(net: torch.nn.Module, images: torch.Tensor, count: int) -> list[list[tuple[int, float]]]:
    with torch.inference_mode():
        probabilities = torch.softmax(net(images), dim=1)
    return [sorted(enumerate(row.tolist()), key=lambda pair: -pair[1])[:count] for row in probabilities]


def test_an_image_classifier_answers_the_five_likeliest_labels_of_each_image(tmp_path: Path) -> None:
    folder, net = make_classifier(tmp_path)
    service = load_handler(folder, "image_classifier")
    images = [picture(1), picture(2, (224, 500)), picture(3, (400, 256))]
    answers = ask(service, {"body": images[0]}, {"data": bytearray(images[1])}, {"body": images[2]})
    expected = [
        {f"label-{index}": probability for index, probability in row}
        for row in likeliest(net, prepared(*images), 5)
    ]
    assert answers == [pytest.approx(row) for row in expected]
    assert [list(row) for row in answers] == [list(row) for row in expected]
    assert all(type(value) is float for row in answers for value in row.values())


def test_without_labels_the_classes_numbers_are_answered(tmp_path: Path) -> None:
    folder, net = make_classifier(tmp_path, labels=None)
    (answer,) = ask(load_handler(folder, "image_classifier"), {"body": picture(1)})
    assert list(answer) == [str(index) for index, _ in likeliest(net, prepared(picture(1)), 5)[0]]


SUBCLASS = """
from ts.torch_handler.image_classifier import ImageClassifier


class Mine(ImageClassifier):
    def initialize(self, context):
        super().initialize(context)
        self.set_max_result_classes(self.get_max_result_classes() - 3)
"""


def test_a_subclass_chooses_how_many_classes_are_answered(tmp_path: Path) -> None:
    folder, net = make_classifier(tmp_path)
    (folder / "mine.py").write_text(SUBCLASS)
    (answer,) = ask(load_handler(folder, "mine.py"), {"body": picture(1)})
    assert list(answer) == [f"label-{index}" for index, _ in likeliest(net, prepared(picture(1)), 2)[0]]


def test_images_may_come_as_base64_text_or_as_numbers(tmp_path: Path) -> None:
    folder, _ = make_classifier(tmp_path)
    service = load_handler(folder, "image_classifier")
    plain = ask(service, {"body": picture(4)})
    assert ask(service, {"body": base64.b64encode(picture(4)).decode()}) == plain
    assert ask(service, {"body": prepared(picture(4))[0].tolist()}) == plain


def test_a_picture_that_is_none_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder, _ = make_classifier(tmp_path)
    service = load_handler(folder, "image_classifier")
    with pytest.raises(OSError, match="cannot identify image file"):
        ask(service, {"body": b"no picture at all"})


def test_pixels_are_limited_unless_the_server_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_library, "MAX_IMAGE_PIXELS", 1000)
    folder, _ = make_classifier(tmp_path)
    service = load_handler(folder, "image_classifier")
    with pytest.raises(image_library.DecompressionBombError):
        ask(service, {"body": picture(1)})
    service.context.system_properties["limit_max_image_pixels"] = False
    service._entry_point.__self__.initialize(service.context)
    assert ask(service, {"body": picture(1)})


def test_an_explanation_gives_each_pixels_share_by_fifteen_steps(tmp_path: Path) -> None:
    attr = pytest.importorskip("captum.attr")
    folder, net = make_classifier(tmp_path)
    service = load_handler(folder, "image_classifier")
    image = torch.rand(3, 40, 48)
    answers = ask(service, {"body": image.tolist(), "target": 3}, explain="True")
    expected = attr.IntegratedGradients(net).attribute(image[None], target=3, n_steps=15)
    assert torch.tensor(answers).shape == (1, 3, 40, 48)
    assert torch.allclose(torch.tensor(answers), expected.float(), atol=1e-5)
    other = ask(service, {"body": image.tolist()}, explain="True")
    assert other != answers, "without a target class 0 is explained"


def test_a_segmenter_answers_the_class_and_probability_of_each_pixel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    ).eval()
    wrapper = torch.nn.Module()
    wrapper.net = net
    folder = make_folder(tmp_path, wrapper, textwrap.dedent(SEGMENTER))
    service = load_handler(folder, "image_segmenter")
    answers = torch.tensor(ask(service, {"body": picture(1)}, {"body": picture(2)}))
    with torch.inference_mode():
        probabilities = torch.softmax(net(prepared(picture(1), picture(2)))["out"], dim=1)
    assert answers.shape == (2, 224, 224, 2)
    assert torch.equal(answers[..., 0], probabilities.argmax(dim=1).float())
    assert torch.allclose(answers[..., 1], probabilities.amax(dim=1))


def detector(folder: Path, bias: list[float], **changes: object) -> Path:
    linear = torch.nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor(bias))
    net = torch.nn.Module()
    net.score = linear
    return make_folder(folder, net, textwrap.dedent(DETECTOR), **changes)  # type: ignore[arg-type]  # a test's own


def test_a_detector_answers_the_boxes_it_is_sure_of(tmp_path: Path) -> None:
    folder = detector(tmp_path, [0.0, -1.0, 2.0], labels={"1": "cat", "2": "dog"})
    service = load_handler(folder, "object_detector")
    certain = torch.sigmoid(torch.tensor(2.0)).item()
    found = [{"cat": [0.0, 0.0, 4.0, 5.0], "score": 0.5}, {"cat": [2.0, 2.0, 6.0, 6.0], "score": certain}]
    small = picture(1, (20, 20))
    assert ask(service, {"body": small}, {"body": small}) == [found, found]


def test_a_detector_that_is_sure_of_nothing_answers_no_boxes(tmp_path: Path) -> None:
    service = load_handler(detector(tmp_path, [-1.0, -1.0, -1.0]), "object_detector")
    assert ask(service, {"body": picture(1, (20, 20))}) == [[]]
    service._entry_point.__self__.threshold = 0.1
    (boxes,) = ask(service, {"body": picture(1, (20, 20))})
    assert [next(iter(box)) for box in boxes] == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ts.torch_handler.base_handler", "torchvision captum onnxruntime PIL matplotlib transformers"),
        ("ts.torch_handler.vision_handler", "torchvision captum onnxruntime"),
        ("ts.torch_handler.text_classifier", "torchvision captum onnxruntime PIL"),
        ("ts.torch_handler.vllm_handler", "torchvision captum onnxruntime PIL transformers vllm"),
    ],
)
def test_a_handler_imports_only_what_it_needs(module: str, absent: str) -> None:
    code = f"import sys, {module}\nprint(sorted(set({absent.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
