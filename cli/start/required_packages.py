"""Which packages the parts of a server can't start without, and which extra brings them."""

from importlib.util import find_spec

from torchrelay.cli.faults import Fault
from torchrelay.cli.start.child import Role

#: A part -> the modules that it can't do without. Its extra has its name.
MODULES: dict[Role, tuple[str, ...]] = {
    "broker": ("regex", "sqlalchemy"),
    "gateway": ("cryptography", "falcon", "gunicorn", "httptools", "uvicorn", "uvicorn_worker", "uvloop"),
    "worker": ("psutil",),
}


def require_packages(*roles: Role) -> None:
    """Raise Fault with the line that installs what is missing; imports nothing of it."""
    missing = [module for role in roles for module in MODULES[role] if find_spec(module) is None]
    if missing:
        extra = roles[0] if len(roles) == 1 else "all"
        raise Fault(
            f"packages that this needs are not installed ({', '.join(missing)}): "
            f"pip install 'torchrelay[{extra}]'"
        )
