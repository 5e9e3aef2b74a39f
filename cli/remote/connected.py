"""A client of a running server for commands: what goes wrong becomes a Fault that says what to do next."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torchrelay.cli.commands.options import KEY_FILE_NAME
from torchrelay.cli.faults import Fault
from torchrelay.client.call_failures import (
    AnswerTimeout,
    CertificateNotTrusted,
    ServerNotReached,
    UnusableSetting,
)
from torchrelay.client.http_calls import Api, NoName
from torchrelay.client.retry_policy import NO_RETRIES
from torchrelay.client.sync_client import Client
from torchrelay.shared import errors

NAMES_ADVICE = "`torchrelay models list`, `nodes list` and `nodes invitations` show names and ids"
#: Of what is said why something failed.
DETAILS_LIMIT_CHARS = 500
#: What a person can do about an error, by its `type`.
ADVICE = {
    errors.MethodNotAllowed.type: "the server must run with --enable-model-api for this",
    errors.ModelNotFound.type: "`torchrelay models list` shows what is registered",
    errors.ModelVersionNotFound.type: "`torchrelay models describe NAME --all` shows its versions",
    errors.WorkflowNotFound.type: "`torchrelay workflows list` shows what is registered",
    errors.MemberNotFound.type: "`torchrelay nodes list` and `torchrelay gateways list` show the names",
    errors.InvitationNotFound.type: "`torchrelay nodes invitations` (or `gateways invitations`) shows the ids"
    " of those that let somebody in",
    errors.Conflict.type: "unregister that version first, or give the archive another one",
    errors.ServiceUnavailable.type: "`torchrelay status` shows why",
    errors.InvalidModel.type: "`torchrelay archive inspect FILE` checks an archive",
    errors.InvalidKey.type: f"the key comes from TORCHRELAY_KEY, or from a {KEY_FILE_NAME} in this folder",
}
#: The same for a registration, where it differs.
REGISTRATION_ADVICE = ADVICE | {
    errors.ModelNotFound.type: "the archive must lie in the server's model store, or be given as a url",
    errors.DownloadFailed.type: "the server itself must be able to fetch that url, and private addresses"
    " only with allow_private_urls; the broker's log has the reason",
}
WORKFLOW_REGISTRATION_ADVICE = REGISTRATION_ADVICE | {
    errors.BadRequest.type: "workflows are registered by a server with --enable-workflows",
    errors.WorkflowNotFound.type: "the archive must lie in the server's workflow store, or be given as a url",
    errors.Conflict.type: "unregister that workflow first, or give this one another name with --name",
}


@contextmanager
def unusable_settings_are_faults() -> Iterator[None]:
    """Raise Fault where an address, a key file or a certificate can't be used."""
    try:
        yield
    except UnusableSetting as error:
        raise Fault(str(error)) from error


@contextmanager
def connected(
    api: Api, url: str, *, key: str | None = None, advice: Mapping[str, str] = ADVICE
) -> Iterator[Client]:
    """Yield a client of one address of a server, which tries nothing again: a person is told at once.

    Raises Fault for each error of a call.
    """
    inference, management = (url, None) if api == "inference" else (None, url)
    try:
        with Client(inference=inference, management=management, key=key, retries=NO_RETRIES) as client:
            yield client
    except errors.RelayError as error:
        raise Fault(explained(error, api, url, advice)) from error
    except NoName as error:
        raise Fault(f"{error}\n{NAMES_ADVICE}") from error


def explained(error: errors.RelayError, api: Api, url: str, advice: Mapping[str, str] = ADVICE) -> str:
    """Say what failed, why, and what to do next, a line each."""
    match error:
        case CertificateNotTrusted():
            return (
                f"{error.message}: {error.details}\n"
                "set TORCHRELAY_CA to the PEM file of the authority that signed it"
            )
        case ServerNotReached():
            return (
                f"no server answers at {url}: start one with `torchrelay serve`, or say where it is"
                f" with --{api} or TORCHRELAY_{api.upper()}"
            )
        case AnswerTimeout():
            return f"the server at {url} gave no answer in time: `torchrelay status` shows why"
    parts = [error.message, error.details[:DETAILS_LIMIT_CHARS], advice.get(error.type, "")]
    return "\n".join(part for part in parts if part)
