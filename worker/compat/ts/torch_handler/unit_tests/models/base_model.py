"""The smallest model that tests of handlers can load."""

import torch


class ArgmaxModel(torch.nn.Module):
    """Answers the index of each row's largest number; has no weights."""

    def forward(self, *rows: torch.Tensor) -> torch.Tensor:
        """Take [batch, numbers]."""
        return torch.argmax(rows[0], 1)


def save_pt_file(filepath: str = "base_model.pt") -> None:
    """Write the model's state dict."""
    torch.save(ArgmaxModel().state_dict(), filepath)
