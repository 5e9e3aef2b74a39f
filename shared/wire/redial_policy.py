"""When a part dials its broker anew, where, by which of the broker's keys, and what it says about it. Pure.

libzmq connects again by itself where a connection has ended. It never does where the broker has refused a
key, where the other side speaks otherwise, or where bytes came that can't be: such a socket is mute for ever,
and a new one is needed. A broker with another key shows by handshakes that end at once, again and again.
"""

from typing import Literal, NamedTuple

import msgspec

from torchrelay.shared.wire.curve import shown

#: What became of dialling. A handshake is `refused` for the key, `broken` off without a word, or can't be
#: since it is a `mismatch`; a connection has `ended`, and `retrying` says that libzmq will connect again.
News = Literal["connected", "retrying", "done", "refused", "broken", "mismatch", "ended"]
Kind = Literal["gateway", "node", "worker"]

#: Handshakes that are broken off one soon after the other until the broker is thought to have another key;
#: one that hangs lasts for longer than SOON_S.
BROKEN_LIMIT, SOON_S = 3, 2.0
#: How long an address may take to be connected to, or a broker to come back there, before the next is tried.
ADDRESS_TRY_S = 2.0
#: libzmq says at once that it tries again; a socket that doesn't is mute.
MUTE_AFTER_S = 1.0
#: Waits between new sockets, the first and the longest, by who waits. A worker may come before its node has
#: told its key, as after a restart of the broker; and there are many of them.
WAITS_S: dict[Kind, tuple[float, float]] = {"gateway": (1.0, 30.0), "node": (1.0, 30.0), "worker": (0.1, 2.0)}
#: The longest wait where the broker may merely be away, behind a proxy that takes connections and ends them;
#: and for how long that is nothing to be logged.
UNPROVED_WAIT_S, UNPROVED_PATIENCE_S = 1.0, 5.0
#: How long a broker that can't be talked to is nothing to be logged.
PATIENCE_S: dict[Kind, float] = {"gateway": 0.0, "node": 0.0, "worker": 5.0}
REPEAT_S = 60.0

_NEVER = float("inf")


class BrokerPlace(msgspec.Struct, frozen=True):
    """Where a part finds its broker; with keys, all of which are in hex, both prove who they are.

    `broker_keys` are those that the broker may have, the likeliest first; `secret_key` is the part's own.
    """

    addresses: tuple[str, ...]
    broker_keys: tuple[str, ...] = ()
    secret_key: str = ""

    def __repr__(self) -> str:
        return f"BrokerPlace(addresses={self.addresses!r})"


class Target(NamedTuple):
    """Where to dial, and the key that the broker must prove to have; "" where nobody needs one."""

    address: str
    broker_key: str


class RedialPolicy:
    """Decides for one part, which has one socket at a time, or none while it waits."""

    def __init__(self, kind: Kind, addresses: tuple[str, ...], broker_keys: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._addresses = addresses
        #: Keys that the broker may have, the likeliest first; none where nobody needs a key.
        self.broker_keys = broker_keys
        self._address_at = self._key_at = 0
        #: When a new socket is to be dialled, whether there is one by then or not.
        self.next_wake = 0.0
        self._has_socket = self._is_up = self._is_shaking_hands = False
        #: Since when there is no connection: the dialling, or the end of the last one.
        self._lost_at = 0.0
        #: Why the broker can't be talked to, and since when; "" where it can, or is merely away.
        self.reason = ""
        #: Whether the broker has last refused this part's key.
        self.is_refused = False
        self._failing_since = 0.0
        self._patience_s = 0.0
        self._said, self._say_at = "", 0.0
        self._broken, self._broken_at = 0, 0.0
        self._wait_s = WAITS_S[kind][0]

    @property
    def target(self) -> Target:
        """What the present socket was dialled to, or the next will be."""
        key = self.broker_keys[self._key_at] if self.broker_keys else ""
        return Target(self._addresses[self._address_at], key)

    @property
    def is_watched(self) -> bool:
        """Whether news are needed: not on a unix socket, where nothing but a broker of ours listens."""
        return bool(self.broker_keys) or self.target.address.startswith("tcp://")

    def dial(self, now: float) -> Target:
        """Return what to dial now that `next_wake` has come, in the place of the present socket if any."""
        if self._has_socket and now >= self._lost_at + ADDRESS_TRY_S:
            self._turn_to_next_address()
        self._has_socket, self._is_up, self._is_shaking_hands = True, False, False
        self._lost_at = now
        self._broken = 0
        self._let_libzmq_try()
        return self.target

    def know(self, broker_keys: tuple[str, ...]) -> None:
        """Take on the keys that a broker which has proved itself says that it has."""
        if self.broker_keys and broker_keys:
            self.broker_keys, self._key_at = broker_keys, 0

    def learn(self, broker_keys: tuple[str, ...]) -> None:
        """Take on what others of this host have been told since; keys before those known here are past."""
        known_to = max(
            (broker_keys.index(key) + 1 for key in self.broker_keys if key in broker_keys), default=0
        )
        if self.broker_keys:
            self.broker_keys += broker_keys[known_to:]

    def heard(self, news: News, now: float) -> bool:
        """Take in what became of dialling; return whether the socket is of no use, and is to be closed."""
        match news:
            case "connected" | "retrying":
                self._is_shaking_hands = news == "connected"
                self._let_libzmq_try()
            case "done":
                self._succeed()
            case "broken":
                self._is_shaking_hands = False
                self._count_broken(now)
            case "refused":
                self.is_refused = True
                self._fail(self._why_refused(), now)
            case "mismatch":
                self._mismatch(now)
            case "ended" if self._is_shaking_hands:
                self._mismatch(now)  # of a handshake that merely breaks off there would be news
            case "ended":
                if self._is_up:
                    self._is_up, self._lost_at = False, now
                self.next_wake = now + MUTE_AFTER_S
        return not self._has_socket

    def complaint(self, now: float) -> str:
        """Return what is to be logged now, each reason once a minute at most; "" for nothing."""
        if not self.reason or now < self._failing_since + self._patience_s:
            return ""
        if self.reason == self._said and now < self._say_at:
            return ""
        self._said, self._say_at = self.reason, now + REPEAT_S
        return self.reason

    def _let_libzmq_try(self) -> None:
        """Leave it to libzmq to connect; where there are several addresses, for a while."""
        is_bounded = len(self._addresses) > 1 and not self._is_up
        self.next_wake = self._lost_at + ADDRESS_TRY_S if is_bounded else _NEVER

    def _succeed(self) -> None:
        self._is_up, self._is_shaking_hands = True, False
        self.next_wake = _NEVER
        # Keys before this one are of the time before the broker's restart: nobody shall be believed by them.
        self.broker_keys, self._key_at = self.broker_keys[self._key_at :], 0
        self.reason = self._said = ""
        self.is_refused = False
        self._broken = 0
        self._wait_s = WAITS_S[self._kind][0]

    def _count_broken(self, now: float) -> None:
        is_soon = now <= self._broken_at + SOON_S
        # It may hang; or all takes long, as on a busy host: the keys that it may have are tried in turn.
        is_other_due = self._broken > 0 and not is_soon and len(self.broker_keys) > 1
        self._broken = self._broken + 1 if is_soon else 1
        self._broken_at = now
        if self._broken < BROKEN_LIMIT and not is_other_due:
            return
        if is_other_due or self._key_at + 1 < len(self.broker_keys):
            self._key_at = (self._key_at + 1) % len(self.broker_keys)
            self._has_socket, self.next_wake = False, now
            return
        why = self._why_another_key()
        self._key_at = 0
        self._turn_to_next_address()
        self._wait_s = min(self._wait_s, UNPROVED_WAIT_S)
        self._fail(why, now, UNPROVED_PATIENCE_S)

    def _mismatch(self, now: float) -> None:
        if self._is_up:
            self._fail(self._why_spoilt(), now)
            return
        why = self._why_mismatch()
        self._turn_to_next_address()
        self._fail(why, now)

    def _fail(self, reason: str, now: float, patience_s: float = 0.0) -> None:
        """Have the socket closed, and another dialled after a wait."""
        self._patience_s = max(patience_s, PATIENCE_S[self._kind])
        if not self.reason:
            self._failing_since = now
        self.reason = reason
        self._has_socket = self._is_up = self._is_shaking_hands = False
        self.next_wake = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, WAITS_S[self._kind][1])

    def _turn_to_next_address(self) -> None:
        self._address_at = (self._address_at + 1) % len(self._addresses)

    # What is said of it

    def _why_refused(self) -> str:
        broker = f"the broker at {self.target.address}"
        if self._kind == "worker":
            return f"{broker} doesn't know this worker's key: its node has not told it, or was revoked"
        why = "it was revoked, forgotten, or never joined"
        return f"{broker} doesn't know this host's key: {why}; on the broker's host {self._advice}"

    def _why_another_key(self) -> str:
        if not self.broker_keys:
            return self._why_mismatch()  # which depends on who has closed the connection first
        known = " or ".join(map(shown, self.broker_keys))
        broker = f"the broker at {self.target.address}"
        why = f"{broker} has another key than these credentials say ({known}), asks for none, or is away"
        return why if self._kind == "worker" else f"{why}; if it has lost its own, {self._advice}"

    def _why_spoilt(self) -> str:
        how = "changed, repeated or left out on the way" if self.broker_keys else "changed on the way"
        return f"what came from the broker at {self.target.address} was {how}: the connection was ended"

    def _why_mismatch(self) -> str:
        if self.broker_keys:
            return f"what listens at {self.target.address} is a broker that asks for no key, or none"
        return f"the broker at {self.target.address} asks for a key, or is none: on its host {self._advice}"

    @property
    def _advice(self) -> str:
        return f"run `torchrelay {self._kind}s invite`, and start here with --join"
