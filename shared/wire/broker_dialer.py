"""The socket by which a part reaches its broker, made anew where the old one is of no use any more.

It does what `redial_policy` decides, never blocks, and belongs to the thread that made it. Nothing is done
per message: who uses it has `see` called when `watcher_fd` is readable, and when `next_wake` has come.
"""

from collections.abc import Callable

from torchrelay.shared.wire import sockets
from torchrelay.shared.wire.curve import Secured
from torchrelay.shared.wire.redial_policy import BrokerPlace, Kind, RedialPolicy


class BrokerDialer:
    """Has one socket at a time, which is closed while a wait lasts."""

    def __init__(self, context: sockets.Context, kind: Kind, place: BrokerPlace, *, now: float) -> None:
        """Dial; a part with a key is the same to the broker by whatever socket it comes."""
        self._context = context
        self._kind = kind
        self._own = sockets.pair_of(place.secret_key) if place.secret_key else None
        self._session = sockets.new_session(kind)
        self._watcher: sockets.Socket | None = None
        self._kept_keys = place.broker_keys
        self.policy = RedialPolicy(kind, place.addresses, place.broker_keys)
        #: What to do before the socket is closed, and when there is another, or a connection.
        self.on_closing = self.on_dialled = self.on_connected = _nothing
        #: Told why the broker can't be talked to, now and then.
        self.complain: Callable[[str], None] = _ignore
        #: Told by which keys the broker is known from now on.
        self.keep_keys: Callable[[tuple[str, ...]], object] = _ignore
        #: Asked by which keys others of this host know the broker, while it can't be talked to.
        self.others_keys: Callable[[], tuple[str, ...]] = tuple
        self._dial(now)

    @property
    def address(self) -> str:
        """Where the broker is, or is tried to be reached next."""
        return self.policy.target.address

    @property
    def watcher_fd(self) -> int | None:
        """An fd that turns readable when there is something to `see`; None where there never is."""
        return None if self._watcher is None else sockets.fd_of(self._watcher)

    @property
    def next_wake(self) -> float:
        """When to call `see` though the fd isn't readable."""
        return self.policy.next_wake

    def see(self, now: float) -> None:
        """Take in how dialling goes on, and close or dial what has to be."""
        while self._watcher is not None and (news := sockets.next_news(self._watcher)) is not None:
            if self.policy.heard(news, now):
                self.close()
            elif news == "done":
                self.on_connected()
        if now >= self.policy.next_wake:
            self.close()
            self._dial(now)
            self.on_dialled()
        if complaint := self.policy.complaint(now):
            self.complain(complaint)
        self._keep_new_keys()

    def know(self, broker_keys: tuple[str, ...]) -> None:
        """Take on the keys that the broker says that it has."""
        self.policy.know(broker_keys)
        self._keep_new_keys()

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket, if it isn't."""
        if self.socket.closed:
            return
        self.on_closing()
        if self._watcher is not None:
            sockets.close_watched(self.socket, self._watcher, linger_ms)
            self._watcher = None
        else:
            self.socket.close(linger=linger_ms)

    def _keep_new_keys(self) -> None:
        if self.policy.broker_keys != self._kept_keys:
            self._kept_keys = self.policy.broker_keys
            self.keep_keys(self._kept_keys)

    def _dial(self, now: float) -> None:
        if self.policy.reason:
            self.policy.learn(self.others_keys())
        address, broker_key = self.policy.dial(now)
        secured = None if self._own is None else Secured(broker_key, self._own)
        if self.policy.is_watched:
            self.socket, self._watcher = sockets.dial_watched(
                self._context, address, self._kind, secured=secured, session=self._session
            )
        else:
            self.socket = sockets.dial(self._context, address, self._kind)


def _nothing() -> None:
    """Do nothing."""


def _ignore(said: object) -> None:
    """Take note of nothing."""
