"""Fetches models from the Hugging Face hub; needs the package huggingface_hub."""

from ts.utils.util import require

#: Weights, configuration and tokenizers in every format; documentation and other frameworks' weights stay.
_PATTERNS = ["*.json", "*.pt", "*.bin", "*.txt", "*.model", "*.pth", "*.safetensors", "original/*"]


def download_model(
    model_id: str = "meta-llama/Meta-Llama-3.1-8B-Instruct",
    revision: str = "main",
    model_path: str = ".cache",
    use_auth_token: bool | str = True,
) -> str:
    """Fetch a model's files into the cache folder `model_path`; return the folder that they are in."""
    hub = require("huggingface_hub", "download_model")
    path: str = hub.snapshot_download(
        repo_id=model_id,
        revision=revision,
        allow_patterns=_PATTERNS,
        cache_dir=model_path,
        token=use_auth_token,
    )
    return path
