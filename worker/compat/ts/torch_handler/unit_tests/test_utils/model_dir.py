"""Makes model folders for tests of handlers."""

import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

#: Weights that were fetched once, below the folder that tests run in.
CACHE = Path(".cache")


def download_model(model_url: str, model_dir: Path) -> None:
    """Fetch weights, unless they were fetched before, and put them into the folder as `model.pt`."""
    cached = CACHE / Path(urlparse(model_url).path).name
    if not cached.exists():
        CACHE.mkdir(exist_ok=True)
        with urllib.request.urlopen(model_url) as source, cached.open("wb") as target:
            shutil.copyfileobj(source, target)
    shutil.copy(cached, model_dir / "model.pt")


def copy_files(src_dir: Path, dst_dir: Path, files: dict[str, str]) -> None:
    """Copy files, each to a name of its own."""
    for source, target in files.items():
        shutil.copyfile(src_dir / source, dst_dir / target)
