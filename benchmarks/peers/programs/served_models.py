"""The models of the comparison, the same for every server: what a server adds is all that differs.

Every server's own program imports this module as `served_models`, in the server's environment: nothing but
the standard library is imported before a model needs it.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

#: Of torch's layers: numbers in a question and in its answer, and the width.
NUMBERS, WIDTH = 16, 512
#: Batches of so many layers, of which the fastest tells what one takes.
TIMED_LAYERS, TIMED_BATCHES = 40, 15
FEATURES, HIDDEN, CLASSES = 32, 64, 10
PARTS = 32
EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
#: The parts of a layer beside its attention's inputs: torch's name -> the name in the file.
LAYER_PARTS = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class Perceptron:
    """Two layers with fixed weights, in NumPy, so that no library's threads are part of what is measured."""

    def __init__(self) -> None:
        import numpy

        self._numpy = numpy
        fixed = numpy.random.RandomState(7)
        self._first = fixed.standard_normal((FEATURES, HIDDEN)).astype("float32") / FEATURES**0.5
        self._second = fixed.standard_normal((HIDDEN, CLASSES)).astype("float32") / HIDDEN**0.5

    def probabilities(self, rows: Any) -> Any:
        """Return an array [batch, CLASSES] for rows of FEATURES numbers each."""
        hidden = self._numpy.maximum(self._numpy.asarray(rows, "float32") @ self._first, 0)
        powers = self._numpy.exp(hidden @ self._second)
        return powers / powers.sum(axis=1, keepdims=True)

    def answers(self, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return the same as lists, which is what becomes JSON."""
        answers: list[list[float]] = self.probabilities(rows).tolist()
        return answers


class SentenceEncoder:
    """all-MiniLM-L6-v2: BERT with 6 layers, the mean of its tokens' states, scaled to length 1."""

    def __init__(self, folder: Path | str) -> None:
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        config = json.loads((Path(folder) / "config.json").read_text())
        weights = load_file(Path(folder) / "model.safetensors")
        self._torch = torch
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.enable_truncation(config["max_position_embeddings"])
        self._tokenizer.enable_padding()
        self._embeddings = {name: weights[f"embeddings.{name}.weight"] for name in EMBEDDINGS}
        self._norm = torch.nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
        self._norm.load_state_dict(
            {name: weights[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias")}
        )
        self._layers = torch.nn.ModuleList(
            self._layer(config, weights, f"encoder.layer.{number}.")
            for number in range(config["num_hidden_layers"])
        ).eval()

    def answers(self, sentences: Sequence[str]) -> list[bytes]:
        """Return each sentence's 384 numbers as float32."""
        torch = self._torch
        with torch.inference_mode():
            encoded = self._tokenizer.encode_batch([*sentences])
            ids = torch.tensor([one.ids for one in encoded])
            mask = torch.tensor([one.attention_mask for one in encoded])
            words, positions, types = (self._embeddings[name] for name in EMBEDDINGS)
            states = self._norm(words[ids] + positions[: ids.shape[1]] + types[0])
            padded = None if bool(mask.all()) else mask == 0
            for layer in self._layers:
                states = layer(states, src_key_padding_mask=padded)
            kept = mask.unsqueeze(-1)
            rows = torch.nn.functional.normalize((states * kept).sum(1) / kept.sum(1)).numpy()
        return [row.tobytes() for row in rows]

    def _layer(self, config: Any, weights: Any, prefix: str) -> Any:
        """Make one layer of torch's own, with the weights that have the prefix."""
        layer = self._torch.nn.TransformerEncoderLayer(
            config["hidden_size"],
            config["num_attention_heads"],
            config["intermediate_size"],
            activation="gelu",
            layer_norm_eps=config["layer_norm_eps"],
            batch_first=True,
        )
        state = {}
        for kind in ("weight", "bias"):
            inputs = [weights[f"{prefix}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"self_attn.in_proj_{kind}"] = self._torch.cat(inputs)
            state |= {
                f"{ours}.{kind}": weights[f"{prefix}{theirs}.{kind}"] for ours, theirs in LAYER_PARTS.items()
            }
        layer.load_state_dict(state)
        return layer


class Layers:
    """So many equal layers in torch that a batch takes a given time."""

    def __init__(self, count: int) -> None:
        import torch

        self._torch = torch
        chance = torch.Generator().manual_seed(7)
        self._first = torch.randn(NUMBERS, WIDTH, generator=chance) / NUMBERS**0.5
        self._layer = torch.randn(WIDTH, WIDTH, generator=chance) / WIDTH**0.5
        self._count = count

    def answers(self, questions: Sequence[Any]) -> list[bytes]:
        """Return NUMBERS float32 for each question, which has as many."""
        torch = self._torch
        together = bytearray(b"".join(map(bytes, questions)))
        with torch.inference_mode():
            states = (
                torch.frombuffer(together, dtype=torch.float32).view(len(questions), NUMBERS) @ self._first
            )
            for _ in range(self._count):
                states = torch.tanh(states @ self._layer)
            rows = states[:, :NUMBERS].contiguous().numpy()
        return [row.tobytes() for row in rows]


@cache
def layers_for(milliseconds: float, batch_size: int) -> int:
    """Return how many layers take so long for a batch on one thread of this machine."""
    import torch

    torch.set_num_threads(1)
    model = Layers(TIMED_LAYERS)
    batch = [bytes(4 * NUMBERS)] * batch_size
    took = []
    for _ in range(TIMED_BATCHES):
        began = perf_counter()
        model.answers(batch)
        took.append(perf_counter() - began)
    return max(1, round(milliseconds / 1000 / (min(took) / TIMED_LAYERS)))


def parts(text: str) -> Iterator[str]:
    """Yield the parts of a streamed answer, of some 64 bytes each."""
    for number in range(PARTS):
        yield f"{number:02} {text[:60]}\n"


def text_of(body: Any) -> str:
    """Return the text of a row's body, whatever form it came in."""
    return bytes(body).decode() if isinstance(body, bytes | bytearray | memoryview) else str(body)


def numbers_of(body: Any) -> Any:
    """Return the numbers of a row's body, which TorchServe's protocol gives to handlers parsed."""
    return json.loads(body) if isinstance(body, bytes | bytearray | str) else body
