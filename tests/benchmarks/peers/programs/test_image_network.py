"""The network of images, as a handler and by itself."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from tests.benchmarks.peers.programs.conftest import Load


def test_an_image_has_the_same_class_alone_in_a_batch_and_by_the_handler(load: Load, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = load("image_network", raw_loop=vars(load("raw_loop")))
    (tmp_path / "images.json").write_text(
        json.dumps({"size": 32, "width": 8, "classes": 50, "batch_size": 6})
    )
    config = program.read_config(tmp_path / "images.json")
    bodies = [program.image(number, config.size) for number in range(config.batch_size)]
    assert bodies == gpu.images(config.batch_size, config.size)
    classifier = program.ImageClassifier(config, "cpu")
    together = classifier.classes(bodies)
    assert together == [classifier.classes([body])[0] for body in bodies]
    assert all(0 <= found < config.classes for found in together)
    context = SimpleNamespace(system_properties={"model_dir": str(tmp_path), "gpu_id": None})
    assert program.handle(None, context) == []
    assert program.handle([{"body": body} for body in bodies], context) == [str(found) for found in together]


def test_it_is_as_large_as_resnet_18(load: Load) -> None:
    pytest.importorskip("torch")
    program = load("image_network", raw_loop=vars(load("raw_loop")))
    network = program.network(program.ImageConfig(size=224, width=64, classes=1000, batch_size=1))
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
