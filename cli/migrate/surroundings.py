"""What archives, scripts and manifests are judged by, beside themselves: the configuration and the host."""

import importlib.util
from collections.abc import Callable
from functools import cache
from importlib import metadata

import msgspec

from torchrelay.shared.torchserve.config_keys import ConfigValues

#: Modules that Python once had -> the first version without them.
_GONE = {
    "3.12": "asynchat asyncore distutils imp smtpd",
    "3.13": "aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap nntplib pipes sndhdr sunau telnetlib"
    " uu xdrlib",
}
GONE_FROM_PYTHON = {module: version for version, names in _GONE.items() for module in names.split()}
#: Packages whose modules have other names; all others are taken to be called like theirs.
_MODULE_OF = {
    "beautifulsoup4": "bs4",
    "faiss-cpu": "faiss",
    "nvidia-dali-cuda120": "nvidia",
    "opencv-contrib-python": "cv2",
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "protobuf": "google",
    "python-dateutil": "dateutil",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
#: Extras of ours, in the order in which they are advised.
_EXTRAS = ("worker", "handlers")


def is_installed(module: str) -> bool:
    """Tell whether a package can be imported here, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # one that is half there
        return False


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the server, beside the file that is looked at."""

    #: What the config.properties that is checked as well says.
    config: ConfigValues = ConfigValues()
    #: Whether a package is there; by default for none it is asked.
    has_package: Callable[[str], bool] = lambda _: True


def modules_of(requirements: str) -> frozenset[str]:
    """Return the modules that come with the packages of a requirements file."""
    return frozenset(
        _MODULE_OF.get(name, name.replace("-", "_"))
        for line in requirements.splitlines()
        if (name := _package(line))
    )


def advice_for(module: str) -> str:
    """Say how a package that is missing is installed."""
    for extra, modules in _modules_of_extras().items():
        if module in modules:
            return f"where workers run: pip install 'torchrelay[{extra}]'"
    package = next((name for name, known in _MODULE_OF.items() if known == module), module)
    return f"install {package} where workers run, or put it into the archive's requirements"


@cache
def _modules_of_extras() -> dict[str, frozenset[str]]:
    try:
        lines = metadata.requires("torchrelay") or []
    except metadata.PackageNotFoundError:
        return {}
    return {
        extra: modules_of(
            "\n".join(line.partition(";")[0] for line in lines if f'extra == "{extra}"' in line)
        )
        for extra in _EXTRAS
    }


def _package(line: str) -> str:
    """Return the name in a line of requirements, in small letters; "" for options, paths and comments."""
    name = ""
    for character in line.strip():
        if not (character.isascii() and character.isalnum()) and character not in "-_.":
            break
        name += character
    return "" if name.startswith((".", "-")) else name.lower().replace("_", "-")
