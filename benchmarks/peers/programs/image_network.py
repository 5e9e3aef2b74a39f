"""A network as large as ResNet-18 that classifies raw images, as a handler and in a loop without a server.

`python image_network.py CONFIG DEVICE` is the loop. CONFIG is a file with the fields of `ImageConfig`, as the
archive's `images.json`. Each line of the standard input is answered by a line of JSON:

- `bytes ROWS SECONDS`, `device ROWS SECONDS`: batches that begin with bytes, as requests bring them, or with
  images that are on the device already; with the figures that wrk gives of a server;
- `classes COUNT`: the classes of the first images of `image`, one by one.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import raw_loop

CHANNELS = 3
STAGES = (1, 2, 4, 8)


@dataclass(frozen=True)
class ImageConfig:
    """The network's measures; those of ResNet-18 are 224, 64 and 1000."""

    size: int
    width: int
    classes: int
    batch_size: int


def image(number: int, size: int) -> bytes:
    """Return the bytes of an image of its own, row by row, three for each pixel."""
    return Random(number).randbytes(size * size * CHANNELS)


def network(config: ImageConfig) -> Any:
    """Make the network with fixed weights."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, taken: int, given: int, stride: int) -> None:
            super().__init__()
            self.path = nn.Sequential(
                nn.Conv2d(taken, given, 3, stride, 1, bias=False), nn.BatchNorm2d(given), nn.ReLU(),
                nn.Conv2d(given, given, 3, 1, 1, bias=False), nn.BatchNorm2d(given),
            )  # fmt: skip
            self.short: nn.Module = nn.Identity()
            if stride > 1 or taken != given:
                self.short = nn.Sequential(
                    nn.Conv2d(taken, given, 1, stride, bias=False), nn.BatchNorm2d(given)
                )

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.path(states) + self.short(states))

    torch.manual_seed(7)
    width = config.width
    layers: list[nn.Module] = [
        nn.Conv2d(CHANNELS, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    taken = width
    for times in STAGES:
        given = times * width
        layers += [Block(taken, given, 1 if times == 1 else 2), Block(given, given, 1)]
        taken = given
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(taken, config.classes)]
    return nn.Sequential(*layers).eval()


class ImageClassifier:
    """The network on a device. A batch is copied there once, its classes back once, and waited for once."""

    def __init__(self, config: ImageConfig, device: str) -> None:
        import numpy
        import torch

        self._numpy, self._torch = numpy, torch
        self._device = torch.device(device)
        self._is_gpu = self._device.type == "cuda"
        self._kind = torch.float16 if self._is_gpu else torch.float32
        self._model = network(config).to(self._device, self._kind, memory_format=torch.channels_last)
        shape = (config.batch_size, config.size, config.size, CHANNELS)
        # Pinned: what the device copies by itself, while this process goes on.
        self._images = torch.empty(shape, dtype=torch.uint8, pin_memory=self._is_gpu)
        self._rows = self._images.view(config.batch_size, -1).numpy()
        self._found = torch.empty(config.batch_size, dtype=torch.int64, pin_memory=self._is_gpu)

    def classes(self, bodies: Sequence[Any]) -> list[int]:
        """Return the class of each image."""
        for row, body in zip(self._rows, bodies, strict=False):
            row[:] = self._numpy.frombuffer(body, self._numpy.uint8)
        return self.run(self.on_device(len(bodies)))

    def on_device(self, count: int) -> Any:
        """Copy the first images of the last batch to the device."""
        return self._images[:count].to(self._device, non_blocking=True)

    def run(self, images: Any) -> list[int]:
        """Return the classes of images that are on the device, or on their way there."""
        found = self._found[: len(images)]
        with self._torch.inference_mode():
            scores = self._model(images.permute(0, 3, 1, 2).to(self._kind) / 255)
            found.copy_(scores.argmax(dim=1), non_blocking=True)
        if self._is_gpu:
            self._torch.cuda.current_stream().synchronize()
        return [int(number) for number in found.tolist()]


@cache
def _classifier(folder: str, device: str) -> ImageClassifier:
    return ImageClassifier(read_config(Path(folder) / "images.json"), device)


def read_config(file: Path) -> ImageConfig:
    """Read the file with the network's measures."""
    return ImageConfig(**json.loads(file.read_text()))


def handle(data: "list[dict[str, Any]] | None", context: Any) -> "list[Any]":
    """Answer each image with its class; None is the call at load."""
    gpu = context.system_properties.get("gpu_id")
    classifier = _classifier(context.system_properties["model_dir"], "cpu" if gpu is None else f"cuda:{gpu}")
    return [str(found) for found in classifier.classes([row["body"] for row in data])] if data else []


def main(arguments: Sequence[str]) -> None:
    """Run the loop."""
    config = read_config(Path(arguments[0]))
    classifier = ImageClassifier(config, arguments[1])
    bodies = [image(number, config.size) for number in range(config.batch_size)]
    classifier.classes(bodies)
    print("ready", flush=True)
    for line in sys.stdin:
        what, count, *seconds = line.split()
        rows = int(count)
        if what == "classes":
            found = [classifier.classes([image(number, config.size)])[0] for number in range(rows)]
            print(json.dumps(found), flush=True)
            continue
        call = partial(classifier.classes, bodies[:rows])
        if what == "device":
            call = partial(classifier.run, classifier.on_device(rows))
        print(json.dumps(raw_loop.run(call, rows, float(seconds[0]))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
