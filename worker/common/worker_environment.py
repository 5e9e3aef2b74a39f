"""The environment of worker processes: what they inherit, and what TorchServe's workers find in it; pure."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchrelay.shared.host import BY_BUS, ORDER
from torchrelay.shared.settings import NodeSettings, SettingsError

if TYPE_CHECKING:  # a command that needs what is inherited alone has no use for messages
    from torchrelay.shared.wire import messages as m
    from torchrelay.worker.launcher.launcher_protocol import SequenceHeaders

#: Variables of our own commands begin with it; some hold keys.
OURS = "TORCHRELAY_"
#: What installers of packages get: where things are, how to get out, which certificates to trust, what pip
#: was told, and what compilers need. Nothing that others keep their passwords in.
_FOR_INSTALLERS = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|TMP|TEMP|XDG_CACHE_HOME|XDG_CONFIG_HOME"
    r"|(?i:https?|ftp|all|no)_(?i:proxy)|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|PIP_.*"
    r"|PYTHON[A-Z]*|LD_LIBRARY_PATH|CONDA_PREFIX|CC|CXX|(C|CXX|CPP|LD|MAKE)FLAGS|PKG_CONFIG_PATH|CMAKE_.*"
    r"|MAX_JOBS|CUDA_.*|TORCH_CUDA_ARCH_LIST"
)
#: What passes every credential.
ALL = "*"
#: Variables by which the clients of clouds and hubs get in, as the broker's do where archives lie there.
CREDENTIALS = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN|BEARER_TOKEN_\w+)"
    r"|AWS_(SHARED_CREDENTIALS_FILE|WEB_IDENTITY_TOKEN_FILE|CONTAINER_(CREDENTIALS|AUTHORIZATION)_\w+)"
    r"|GOOGLE_APPLICATION_CREDENTIALS|GOOGLE_API_KEY|GCS_OAUTH_TOKEN|CLOUDSDK_AUTH_\w+"
    r"|AZURE_(CLIENT_SECRET|CLIENT_CERTIFICATE_\w+|PASSWORD|FEDERATED_TOKEN_FILE)"
    r"|AZURE_STORAGE_(ACCOUNT_KEY|KEY|CONNECTION_STRING|SAS_TOKEN|CLIENT_SECRET)"
    r"|HF_TOKEN|HF_TOKEN_PATH|HUGGING_?FACE_HUB_TOKEN"
)
#: Where torch looks for its number of threads on the cpu; the first that is set counts.
THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")


def inherited(
    environment: Mapping[str, str],
    blacklist: str,
    *,
    secrets: Collection[str] = (),
    credentials: Collection[str] = (ALL,),
) -> dict[str, str]:
    """Return the variables that aren't ours and whose whole name doesn't match the blacklist, a regex.

    `secrets` names those that hold one of the server's, `credentials` those for clouds that are passed.
    Raises SettingsError for what is no regex.
    """
    try:
        unwanted = re.compile(blacklist)
    except re.error as error:
        raise SettingsError(f"blacklist_env_vars {blacklist!r} is no regular expression: {error}") from error
    withheld = withheld_credentials(environment, credentials)
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(OURS)
        and name not in secrets
        and not unwanted.fullmatch(name)
        and name not in withheld
    }


def of_settings(environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return what the workers of a node with these settings inherit. Raises SettingsError."""
    return inherited(
        environment,
        settings.blacklist_env_vars,
        secrets=settings.secret_env_vars,
        credentials=settings.credential_env_vars,
    )


def for_installer(environment: Mapping[str, str], more: str) -> dict[str, str]:
    """Return what pip and the builds that it starts find: an archive's requirements may name any of it.

    `more` is a regex for names of further ones. Raises SettingsError for what is no regex.
    """
    try:
        further = re.compile(more)
    except re.error as error:
        raise SettingsError(f"install_env_vars {more!r} is no regular expression: {error}") from error
    return {
        name: value
        for name, value in environment.items()
        if _FOR_INSTALLERS.fullmatch(name) or further.fullmatch(name)
    }


def withheld_credentials(environment: Mapping[str, str], passed: Collection[str]) -> list[str]:
    """Name the variables with credentials that aren't among those to be passed."""
    if ALL in passed:
        return []
    return sorted(name for name in environment if CREDENTIALS.fullmatch(name) and name not in passed)


def for_worker(
    environment: Mapping[str, str], start: "m.StartWorker", headers: "SequenceHeaders", *folders: Path
) -> dict[str, str]:
    """Return what a worker finds beside what it inherits; `folders` come last in its PYTHONPATH."""
    path = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {
        ORDER: environment.get(ORDER, BY_BUS),
        "TS_DECODE_INPUT_REQUEST": str(start.decode_input_request).lower(),
        "TS_IPEX_ENABLE": environment.get("TS_IPEX_ENABLE", "false"),
        "TS_IPEX_GPU_ENABLE": environment.get("TS_IPEX_GPU_ENABLE", "false"),
        "TS_REQUEST_SEQUENCE_ID": headers.id,
        "TS_REQUEST_SEQUENCE_START": headers.start,
        "TS_REQUEST_SEQUENCE_END": headers.end,
        "PYTHONPATH": os.pathsep.join([*path, *(str(folder) for folder in folders)]),
    }


def threads_asked_for(environment: Mapping[str, str]) -> int | None:
    """Return how many threads torch is told to take, or None; of a list for nested loops the first."""
    for name in THREADS:
        number = environment.get(name, "").partition(",")[0].strip()
        if number.isdecimal() and int(number):
            return int(number)
    return None
