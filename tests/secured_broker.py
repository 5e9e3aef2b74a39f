"""A broker's socket on loopback that asks for keys, played by a test."""

from dataclasses import dataclass, field
from pathlib import Path

import zmq

from torchrelay.shared import member_credentials
from torchrelay.shared.member_credentials import Credentials
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import KeyPair
from torchrelay.shared.wire.fields import MemberRole

#: The broker's own keys, and those of whoever comes.
OURS, OWN = (sockets.new_key_pair() for _ in range(2))


@dataclass
class SecuredBroker:
    """A listener that asks for keys, or for none, and knows those in `welcome`."""

    context: sockets.Context
    key: KeyPair | None
    address: str = "tcp://127.0.0.1:*"
    welcome: set[str] = field(default_factory=lambda: {OWN.public})
    asked: int = 0

    def __post_init__(self) -> None:
        self.gatekeeper = sockets.gatekeeper(self.context) if self.key else None
        self.socket = (
            sockets.listener(self.context)
            if self.key is None
            else sockets.secured_listener(self.context, self.key)
        )
        self.socket.bind(self.address)
        self.address = bytes(self.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    def turn(self) -> None:
        while self.gatekeeper and (question := sockets.next_to_admit(self.gatekeeper)) is not None:
            self.asked += 1
            sockets.admit(self.gatekeeper, question, is_welcome=question.public_key in self.welcome)

    def heard(self) -> list[tuple[bytes, m.Message]]:
        """Return what has come, with its sender."""
        self.turn()
        came = []
        while self.socket.poll(0):
            peer, head, *_ = self.socket.recv_multipart()
            came.append((peer, codec.decode(head)[0]))
        return came

    def say(self, peer: bytes, message: m.Message) -> None:
        self.socket.send_multipart((peer, codec.encode(message, epoch=1)))

    def close(self) -> None:
        self.socket.close(linger=0)
        if self.gatekeeper is not None:
            self.gatekeeper.close()
        self.context.term()


def credentials(path: Path, role: MemberRole, address: str) -> Path:
    """Write the credentials of whoever comes."""
    made = Credentials(
        addresses=(address,), broker_keys=(OURS.public,), secret_key=OWN.secret, role=role, is_confirmed=True
    )
    member_credentials.write(path, made)
    return path
