"""Trains the digit model on scikit-learn's 1,797 pictures and measures it on those it never saw.

Writes the weights to the path given. A few seconds on a cpu; the seed is fixed.
"""

import sys

import torch
from model import DigitNet
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS = 30
BATCH_SIZE = 64


def load():
    """Return training pictures, held-out pictures, and the labels of both; values from 0 to 1."""
    digits = load_digits()
    pictures = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, held_out = train_test_split(
        range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target
    )
    return pictures[train], pictures[held_out], labels[train], labels[held_out]


def train(pictures, labels):
    """Train a new model."""
    torch.set_num_threads(1)  # so small a model only waits for a second thread
    torch.manual_seed(0)
    model = DigitNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
            loss = nn.functional.cross_entropy(model(pictures[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def save_picture(picture, path):
    """Write one picture as a PNG, enlarged so that a person can see it."""
    grey = Image.fromarray((picture.squeeze() * 255).round().byte().numpy())
    grey.resize((64, 64), Image.Resampling.NEAREST).save(path)


def main(weights):
    """Train, measure, save."""
    pictures, held_out, labels, held_out_labels = load()
    model = train(pictures, labels)
    with torch.inference_mode():
        right = (model(held_out).argmax(1) == held_out_labels).sum().item()
    total = len(held_out_labels)
    print(f"digits: {right} of {total} held-out pictures right ({right / total:.1%})")
    torch.save(model.state_dict(), weights)


if __name__ == "__main__":
    main(sys.argv[1])
