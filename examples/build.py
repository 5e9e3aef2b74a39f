"""Builds the example archives into a model store: `python examples/build.py [FOLDER]`, `models` by default.

What is newer than its sources is left alone.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from torchrelay.shared.archives import model_archive

EXAMPLES = Path(__file__).resolve().parent
#: MIT licence; only the model's file is taken from the wheel, so none of its dependencies are needed.
SILERO = "silero-vad==6.2.3"


def build_digits(target, scratch):
    """Train the digit model and pack it."""
    folder = EXAMPLES / "digits"
    weights = scratch / "digits.pt"
    subprocess.run([sys.executable, str(folder / "train.py"), str(weights)], check=True)
    model_archive.create(
        target,
        model_name="digits",
        version="1.0",
        handler=str(folder / "handler.py"),
        model_file=folder / "model.py",
        serialized_file=weights,
        force=True,
    )


def build_voice(target, scratch):
    """Fetch silero-vad's model and pack it."""
    folder = EXAMPLES / "voice"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(scratch),
        SILERO,
    ]
    subprocess.run(command, check=True)
    weights = scratch / "silero_vad.pt"
    shutil.copy(scratch / "silero_vad" / "data" / "silero_vad.jit", weights)
    model_archive.create(
        target,
        model_name="voice",
        version="1.0",
        handler=str(folder / "handler.py"),
        serialized_file=weights,
        force=True,
    )


def is_fresh(target, sources):
    """Tell whether an archive is newer than all that it is made of."""
    return target.exists() and all(source.stat().st_mtime <= target.stat().st_mtime for source in sources)


def main(store):
    """Build what is missing or old."""
    store.mkdir(parents=True, exist_ok=True)
    for name, build in (("digits", build_digits), ("voice", build_voice)):
        target = store / f"{name}.mar"
        sources = [Path(__file__), *(EXAMPLES / name).glob("*.py")]
        if is_fresh(target, sources):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            build(target, Path(scratch))
        print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds the example archives into a model store.")
    parser.add_argument("store", nargs="?", type=Path, default=Path("models"), help="its folder; %(default)s")
    main(parser.parse_args().store)
