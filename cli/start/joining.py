"""How a gateway or node comes to its broker: by a socket that needs no key, its own key, or an invitation.

A member's credentials are in a file of its own. An invitation is used once: the host makes a key pair, says
its public half, and comes back with that. What the broker doesn't let in is told what to do.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import typer

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import broker_dialogue
from torchrelay.cli.start.broker_dialogue import KeyRefused, NoAnswer, OtherBroker
from torchrelay.shared import clock, member_credentials
from torchrelay.shared.member_credentials import Credentials, CredentialsError
from torchrelay.shared.settings import take_from_environment
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire import presence, sockets
from torchrelay.shared.wire.curve import Secured
from torchrelay.shared.wire.fields import MemberRole
from torchrelay.shared.wire.invitations import Invitation, NoInvitation, parse

#: An invitation of the environment; kept from all that this process starts.
VARIABLE = "TORCHRELAY_JOIN"
#: How long the broker has to answer, and to write to its disk.
ANSWER_S = 10.0
#: Between tries to reach a broker that isn't there yet, and between lines that say so.
RETRY_S, SAY_S = 2.0, 60.0

#: The command that makes an invitation for a role, and the one that uses it.
_INVITE = {"node": "torchrelay nodes invite", "gateway": "torchrelay gateways invite"}
_START = {"node": "torchrelay worker", "gateway": "torchrelay gateway"}


@dataclass(frozen=True)
class Way:
    """Where the broker is dialled, and the file of the credentials for that; None where no key is needed."""

    address: str
    credentials_file: str | None = None


def read_invitation(join: str | None, join_file: str | None, environ: Mapping[str, str]) -> Invitation | None:
    """Return the invitation that was given; None without one.

    Raises Fault: it can't be read, is none, or two were given.
    """
    if join and join_file:
        raise Fault("--join and --join-file are one too many: say one of them")
    source, text = "--join", join
    if join_file:
        source = "standard input" if join_file == "-" else join_file
        text = _read(join_file)
    elif not join:
        source, text = VARIABLE, environ.get(VARIABLE)
    if text is None:
        return None
    try:
        return parse(text)
    except NoInvitation as error:
        raise Fault(f"{source} holds no invitation: {error}") from error


def default_file(role: MemberRole, environ: Mapping[str, str]) -> Path:
    """Return where a member keeps its credentials if nothing else is said."""
    states = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", ""), ".local", "state")
    return Path(states, "torchrelay", f"{role}-credentials.json").absolute()


@dataclass
class Joining:
    """Finds the way to the broker for a gateway or node; `say` takes lines for the operator."""

    role: MemberRole
    #: How it would be called, if the invitation leaves that open.
    name: str
    path: Path
    invitation: Invitation | None
    say: Callable[[str], None]

    @classmethod
    def of_command(
        cls,
        role: MemberRole,
        join: str | None,
        join_file: str | None,
        credentials: str | None,
        environ: Mapping[str, str],
        name: str | None = None,
    ) -> "Joining":
        """Take what a command was given; an invitation of the environment is kept from what it starts."""
        invitation = read_invitation(join, join_file, environ)
        take_from_environment(VARIABLE)
        path = Path(credentials).absolute() if credentials else default_file(role, environ)
        return cls(role, name or socket.gethostname(), path, invitation, partial(typer.echo, err=True))

    def way(self, broker: str | None, own_socket: Callable[[], str], *, insecure: bool) -> Way:
        """Return how to come to the broker, and join if need be. Raises Fault, with what to do."""
        if broker is not None and (broker.startswith("ipc://") or insecure):
            if self.invitation is not None:
                why = "--insecure asks for no key" if insecure else f"{broker} asks for no key"
                raise Fault(
                    f"an invitation is for a broker that asks for keys, and {why}: leave one of them out"
                )
            return Way(broker)
        try:
            known = member_credentials.read(self.path)
        except CredentialsError as error:
            raise Fault(str(error)) from error
        if known is None and self.invitation is None:
            if broker is None:
                return Way(own_socket())
            raise Fault(
                f"{broker} asks for a key, which this host doesn't have: on the broker's host run"
                f" `{_INVITE[self.role]}`, and start here what it prints ({_START[self.role]} --join ...)"
            )
        if self.invitation is not None and self.invitation.role != self.role:
            raise Fault(
                f"this invitation is for a {self.invitation.role}: {_START[self.invitation.role]} --join"
            )
        if known is None or not self._is_let_in(known, broker):
            if self.invitation is None:
                raise Fault(
                    f"this host has begun to join, and the broker doesn't know the key in {self.path}: on the"
                    f" broker's host run `{_INVITE[self.role]}`, and start here what it prints"
                    f" ({_START[self.role]} --join ...)"
                )
            known = self._enrol(self.invitation, known, broker)
        if broker is not None and known.addresses[0] != broker:
            known = msgspec.structs.replace(known, addresses=(broker,))
            self._keep(known)
        return Way(known.addresses[0], str(self.path))

    def enrol_anew(self) -> None:
        """Join by the invitation once more: the key that it had is known no more. Raises Fault."""
        if self.invitation is not None:
            self._enrol(self.invitation, None, None)

    def _is_let_in(self, known: Credentials, broker: str | None) -> bool:
        """Tell whether the stored key is good, or nobody answers, who may be on the way; else join anew."""
        if known.is_confirmed and self.invitation is None:
            return True  # what goes wrong, the part itself will say
        for address, broker_key in _dials(known, broker):
            own = sockets.pair_of(known.secret_key)
            try:
                self._ask(address, presence.PROBE, Secured(broker_key, own))
            except KeyRefused:
                if self.invitation is not None:
                    self.say(f"The broker at {address} doesn't let this host in by its key; joining anew")
                return False
            except (NoAnswer, OtherBroker):
                continue
            if not known.is_confirmed:
                self._keep(msgspec.structs.replace(known, is_confirmed=True))
            return True
        return known.is_confirmed or self.invitation is None

    def _enrol(self, invitation: Invitation, known: Credentials | None, broker: str | None) -> Credentials:
        """Have the broker take this host's own key on."""
        # One that was written and never confirmed may be known already: its answer was lost.
        own = (
            sockets.pair_of(known.secret_key) if known and not known.is_confirmed else sockets.new_key_pair()
        )
        made = Credentials(
            addresses=invitation.addresses,
            broker_keys=(invitation.broker_key.hex(),),
            secret_key=own.secret,
            role=self.role,
        )
        self._keep(made)
        card = Secured(invitation.broker_key.hex(), sockets.pair_of(invitation.secret_key.hex()))
        enrol = m.Enrol(m.PROTOCOL_VERSION, own.public, self.name)
        answer = self._answer(invitation, enrol, card, broker)
        match answer:
            case m.Enrolled(name, broker_keys):
                made = msgspec.structs.replace(made, name=name, broker_keys=broker_keys, is_confirmed=True)
                self._keep(made)
                self.say(f"Joined as {name}; the key is in {self.path}, and the next start needs no --join")
                return made
            case m.Leave(reason):
                raise Fault(f"the broker doesn't take this host on: {reason}; {self._advice(invitation)}")
            case _:
                raise Fault(f"the broker gave no answer that this version knows; {self._advice(invitation)}")

    def _answer(self, invitation: Invitation, enrol: m.Enrol, card: Secured, broker: str | None) -> m.Message:
        """Ask until the broker answers; it may be on its way up."""
        said_at = -SAY_S
        addresses = (broker,) if broker else invitation.addresses
        while True:
            for address in addresses:
                try:
                    return self._ask(address, enrol, card)
                except KeyRefused as error:
                    raise Fault(
                        f"the broker at {address} lets nobody in by this invitation: it has been used, has"
                        f" expired{_expiry(invitation)} or was withdrawn; {self._advice(invitation)}"
                    ) from error
                except OtherBroker as error:
                    raise Fault(
                        f"{address} is not the broker that made this invitation, or it has another key now;"
                        f" {self._advice(invitation)}"
                    ) from error
                except NoAnswer:
                    now = clock.monotonic()
                    if now - said_at >= SAY_S:
                        said_at = now
                        self.say(
                            f"No broker answers at {', '.join(addresses)} yet; trying again (Ctrl-C ends it)"
                        )
            threading.Event().wait(RETRY_S)

    def _ask(self, address: str, question: m.Message, secured: Secured) -> m.Message:
        return broker_dialogue.ask(address, question, secured=secured, timeout_s=ANSWER_S)[0]

    def _keep(self, credentials: Credentials) -> None:
        try:
            member_credentials.write(self.path, credentials)
        except CredentialsError as error:
            raise Fault(f"{error}; name another file with --credentials") from error

    def _advice(self, invitation: Invitation) -> str:
        return f"ask for a new one with `{_INVITE[invitation.role]}` on the broker's host"


def _read(join_file: str) -> str:
    try:
        return sys.stdin.read() if join_file == "-" else Path(join_file).read_text(encoding="utf-8")
    except OSError as error:
        raise Fault(f"--join-file {join_file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Fault(f"--join-file {join_file} holds no invitation: it is no text") from error


def _dials(known: Credentials, broker: str | None) -> Iterator[tuple[str, str]]:
    for address in (broker,) if broker else known.addresses:
        for broker_key in known.broker_keys:
            yield address, broker_key


def _expiry(invitation: Invitation) -> str:
    at_ms = invitation.expires_at_ms
    return f" ({clock.iso(at_ms)})" if at_ms is not None and at_ms <= clock.wall_ms() else ""
