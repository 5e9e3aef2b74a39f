import json
from array import array
from pathlib import Path

import pytest

from benchmarks.peers.programs import served_models
from benchmarks.peers.programs.served_models import CLASSES, FEATURES, PARTS, Perceptron, SentenceEncoder


def test_the_perceptron_gives_the_same_in_a_batch_as_alone() -> None:
    rows = [[number / 10 + column / 100 for column in range(FEATURES)] for number in range(3)]
    together = Perceptron().answers(rows)
    assert [len(answer) for answer in together] == [CLASSES] * 3
    assert [sum(answer) for answer in together] == pytest.approx([1, 1, 1])
    for row, answer in zip(rows, together, strict=True):
        assert Perceptron().answers([row])[0] == pytest.approx(answer)
    assert together[0] != pytest.approx(together[1])


def test_a_stream_has_its_parts_in_order_and_says_what_was_asked() -> None:
    said = list(served_models.parts("a question"))
    assert len(said) == PARTS
    assert (said[0], said[-1]) == ("00 a question\n", f"{PARTS - 1} a question\n")


def test_bodies_are_taken_in_every_form_that_a_server_gives_them() -> None:
    assert served_models.text_of(bytearray(b"text")) == served_models.text_of("text") == "text"
    assert served_models.numbers_of(b"[1, 2]") == served_models.numbers_of([1, 2]) == [1, 2]


def test_the_encoder_gives_a_sentence_the_same_vector_beside_a_longer_one_as_alone(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    encoder = SentenceEncoder(tmp_path)
    short, long = "a b", "b a a b a b b"
    together = [array("f", answer) for answer in encoder.answers([short, long])]
    assert list(array("f", encoder.answers([short])[0])) == pytest.approx(list(together[0]), abs=1e-5)
    assert sum(number**2 for number in together[0]) == pytest.approx(1, abs=1e-5)
    assert list(together[0]) != pytest.approx(list(together[1]), abs=1e-3)


def write_encoder(folder: Path) -> None:
    """Write a very small encoder with chance weights in the form of the real one."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    size, inner, layers = 8, 16, 2
    config = {"hidden_size": size, "num_attention_heads": 2, "intermediate_size": inner,
              "layer_norm_eps": 1e-12, "num_hidden_layers": layers,
              "max_position_embeddings": 16}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(3)
    weights = {
        "embeddings.word_embeddings.weight": torch.randn(3, size),
        "embeddings.position_embeddings.weight": torch.randn(16, size),
        "embeddings.token_type_embeddings.weight": torch.randn(2, size),
        "embeddings.LayerNorm.weight": torch.ones(size),
        "embeddings.LayerNorm.bias": torch.zeros(size),
    }
    shapes = {"intermediate.dense": (inner, size), "output.dense": (size, inner)}
    inputs = [f"attention.self.{name}" for name in ("query", "key", "value")]
    for number in range(layers):
        for name in (*inputs, *served_models.LAYER_PARTS.values()):
            shape = shapes.get(name, (size, size))
            prefix = f"encoder.layer.{number}.{name}"
            weights[f"{prefix}.weight"] = torch.randn(shape[:1] if name.endswith("LayerNorm") else shape)
            weights[f"{prefix}.bias"] = torch.randn(shape[0])
    save_file(weights, folder / "model.safetensors")


def test_layers_give_a_question_the_same_answer_in_any_batch_and_as_many_as_take_so_long() -> None:
    model = served_models.Layers(3)
    one, other = (array("f", [number / 16] * served_models.NUMBERS).tobytes() for number in (1, 5))
    alone = [array("f", model.answers([question])[0]) for question in (one, other)]
    together = [array("f", answer) for answer in model.answers([one, memoryview(other)])]
    for first, second in zip(alone, together, strict=True):
        assert list(first) == pytest.approx(list(second), abs=1e-5)
    assert list(alone[0]) != pytest.approx(list(alone[1]), abs=1e-3)
    assert served_models.layers_for(0.0, 8) == 1
    assert served_models.layers_for(50.0, 8) > served_models.layers_for(1.0, 8) > 1
