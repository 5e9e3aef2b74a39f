"""A small convolutional network for 8x8 pictures of digits."""

import torch
from torch import nn


class DigitNet(nn.Module):
    """Takes [batch, 1, 8, 8] with values from 0 to 1, and gives a score for each of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Score each picture, [batch, 10]."""
        return self.layers(pictures)
