"""The handlers of texts, with a small network, against the same computed by hand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.torch_handler.text_handler import TextHandler

from tests.worker.handlers import ask, load_handler, make_folder

pytestmark = pytest.mark.usefixtures("imports")

NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(12, 4)
        self.last = torch.nn.Linear(4, 3)

    def forward(self, text, offsets):
        return self.last(self.embedding(text, offsets))
"""
WORDS = [
    "the",
    "movie",
    "was",
    "not",
    "good",
    "cafe",
    "the movie",
    "movie was",
    "was not",
    "not good",
    "<other>",
]
VOCABULARY = {word: index for index, word in enumerate(WORDS, 1)}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.EmbeddingBag(12, 4)
        self.last = torch.nn.Linear(4, 3)


def make_text_folder(folder: Path, vocabulary: object = VOCABULARY, **changes: Any) -> Path:
    labels = {"0": "bad", "1": "fair", "2": "good"}
    made = make_folder(folder, Net(), NET, **{"labels": labels, **changes})
    torch.save(vocabulary, made / "source_vocab.pt")
    return made


def probabilities(numbers: list[int]) -> list[float]:
    net = Net()
    with torch.inference_mode():
        mean = net.embedding.weight[numbers].mean(dim=0)
        row: list[float] = torch.softmax(net.last(mean), dim=0).tolist()
    return row


#: "the movie was not good", then its pairs.
NUMBERS = [1, 2, 3, 4, 5, 7, 8, 9, 10]


@pytest.mark.parametrize(
    "text",
    [
        "the movie was not good",
        "<b>The MOVIE</b> wasn't good&amp;",
        b"The movie was not good!",
        bytearray(b'"the movie, was: (not) good."'),
    ],
)
def test_a_text_is_cleaned_and_its_classes_are_answered(tmp_path: Path, text: object) -> None:
    service = load_handler(make_text_folder(tmp_path), "text_classifier")
    expected = dict(zip(("bad", "fair", "good"), probabilities(NUMBERS), strict=True))
    assert ask(service, {"body": text}) == [pytest.approx(expected)]
    assert ask(service, {"data": text}) == [pytest.approx(expected)]


def test_a_word_that_the_vocabulary_lacks_fails_the_request(tmp_path: Path) -> None:
    service = load_handler(make_text_folder(tmp_path), "text_classifier")
    with pytest.raises(KeyError, match="zebra"):
        ask(service, {"body": "the zebra"})


def test_an_explanation_answers_the_words_and_their_importances(tmp_path: Path) -> None:
    attr = pytest.importorskip("captum.attr")
    folder = make_text_folder(tmp_path)
    service = load_handler(folder, "text_classifier")
    (answer,) = ask(service, {"body": "The movie was not good", "target": 2}, explain="True")
    assert answer["words"] == ["the", "movie", "was", "not", "good"]
    model = sys.modules["net"].Net()
    model.load_state_dict(Net().state_dict())
    attributions = attr.LayerIntegratedGradients(model, model.embedding).attribute(
        torch.tensor(NUMBERS),
        torch.zeros(len(NUMBERS), dtype=torch.long),
        additional_forward_args=torch.tensor([0]),
        target=2,
    )
    shares = torch.softmax(attributions, dim=1)
    expected = shares / shares.sum(dim=-1).norm()
    assert torch.allclose(torch.tensor(answer["importances"]), expected.float(), atol=1e-6)


def test_a_missing_vocabulary_says_so(tmp_path: Path) -> None:
    folder = make_text_folder(tmp_path)
    (folder / "source_vocab.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Missing the source_vocab\.pt file"):
        load_handler(folder, "text_classifier")


VOCABULARY_CLASS = """
class Vocabulary:
    def __getitem__(self, word):
        return 1
"""
SAVES_VOCABULARY = "import torch, vocabulary\ntorch.save(vocabulary.Vocabulary(), 'source_vocab.pt')"


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_a_vocabulary_that_is_an_object_is_loaded_only_where_the_archive_asks(
    tmp_path: Path, is_asked_for: bool
) -> None:
    config = "handler: {weights_only: false}" if is_asked_for else ""
    folder = make_text_folder(tmp_path, config=config)
    (folder / "vocabulary.py").write_text(VOCABULARY_CLASS)
    subprocess.run([sys.executable, "-c", SAVES_VOCABULARY], cwd=folder, check=True)
    if not is_asked_for:
        with pytest.raises(
            RuntimeError,
            match=r"source_vocab.pt holds .*\{weights_only: false\}.*vocabulary\.Vocabulary",
        ):
            load_handler(folder, "text_classifier")
        return
    service = load_handler(folder, "text_classifier")
    (answer,) = ask(service, {"body": "anything"})
    assert list(answer.values()) == pytest.approx(probabilities([1]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't can't I'm", "do not cannot I am"),
        ("Don't CAN'T", "Do not Cannot"),
        ("it's the dog's", "it is the dogs"),
        ("they'd've won't", "they wouldve will not"),
        ("'cause ain't", "ecause as not"),  # the first sign stays, whatever the contraction stands for
    ],
)
def test_contractions_are_expanded_in_torchserves_order(text: str, expected: str) -> None:
    assert TextHandler()._expand_contractions(text) == expected


def test_the_contractions_are_a_table_of_plain_words() -> None:
    assert len(CONTRACTION_MAP) == 123
    assert list(CONTRACTION_MAP)[:4] == ["ain't", "aren't", "can't", "can't've"]
    assert CONTRACTION_MAP["shouldn't've"] == "should not have"
    assert CONTRACTION_MAP["y'all'd've"] == "you all would have"
    assert all("'" in key and "'" not in value for key, value in CONTRACTION_MAP.items())


def test_texts_lose_accents_markup_and_punctuation() -> None:
    handler = TextHandler()
    assert handler._remove_accented_characters("café Łódź ñ") == "cafe odz n"
    assert handler._remove_html_tags("<p class='x'>a</p>&nbsp;b&#39;c&#x2f;") == "abc"
    assert handler._remove_punctuation("a.b,c'd!") == handler._remove_puncutation("a.b,c'd!") == "abcd"
    assert handler.get_word_token(["Ġthe", "movie"]) == ["the", "movie"]


def test_english_is_split_into_words_and_signs() -> None:
    split = get_tokenizer("basic_english")
    text = 'You can\'t "say" that<br />(really); no? Yes! a:b, c.'
    expected = "you can ' t say that ( really ) no ? yes ! a b , c ."
    assert split(text) == expected.split()
    assert get_tokenizer(None)("A b  C.") == ["A", "b", "C."]


@pytest.mark.parametrize(("name", "language"), [("spacy", "en"), ("basic_english", "de")])
def test_other_tokenizers_are_refused(name: str, language: str) -> None:
    with pytest.raises(ValueError, match="there is no tokenizer"):
        get_tokenizer(name, language)


def test_ngrams_follow_their_tokens_shorter_ones_first() -> None:
    assert list(ngrams_iterator(["a", "b", "c"], 3)) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert list(ngrams_iterator(["a"], 2)) == ["a"]
    assert list(ngrams_iterator([], 2)) == []
