"""What is wished of this worker, by the centre and on its own host, and what of it is in force: pure.

Of two wishes for maintenance the later one counts. Knows nothing of connections, of jobs, or of where a
request is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from edge_ws.protocol.frames import Applied, Asked, Wish

COMMENT_LENGTH = 1024
"""Characters of a comment: edge3's column has no more."""
CENTRE = "centre"
HOST = "host"


@dataclass(frozen=True, slots=True)
class Request:
    """The last request on this host, as it is kept across restarts."""

    asked: Asked
    settled: bool = False
    """A wish has taken it in: from then on only its number counts."""


class Standing(NamedTuple):
    """What the centre is told of at once when it changes."""

    accepting: bool = False
    maintenance: bool = False
    leaving: bool = False
    asked: Asked | None = None


class Wishes:
    """The local defaults, the centre's last wish and the host's last request."""

    def __init__(
        self, concurrency: int, queues: tuple[str, ...] | None, request: Request | None = None
    ) -> None:
        """Make it.

        Args:
            concurrency: the local default.
            queues: likewise; None: every queue.
            request: what was last asked for on this host, in whichever life of the daemon.
        """
        self._concurrency = concurrency
        self._queues = queues
        self.request = request
        self.wish = Wish(revision=0, concurrency=None, queues=None)
        """The last that was heard."""
        self.leaving = ""
        """Why the worker finishes what runs and leaves; empty: it stays."""

    # In force

    @property
    def concurrency(self) -> int:
        """Slots."""
        return self._concurrency if self.wish.concurrency is None else self.wish.concurrency

    @property
    def queues(self) -> tuple[str, ...] | None:
        """The queues to serve; None: every one."""
        return self._queues if self.wish.queues is None else self.wish.queues

    @property
    def asked(self) -> Asked | None:
        """The host's request, as long as no wish has taken it in or come after it."""
        return self.request.asked if self.request is not None and not self.request.settled else None

    @property
    def maintenance(self) -> bool:
        """Whether nothing new is taken, though the worker stays."""
        return self.wish.maintenance if self.asked is None else self.asked.maintenance

    @property
    def comment(self) -> str:
        """Why there is maintenance; empty if there is none."""
        if not self.maintenance:
            return ""
        return self.wish.comment if self.asked is None else self.asked.comment

    @property
    def maintained_by(self) -> str:
        """Who wants the maintenance, `host` or `centre`; empty if there is none."""
        if not self.maintenance:
            return ""
        # A wish that has taken the host's request in repeats it.
        last = self.request.asked if self.request is not None else None
        is_taken_in = last is not None and last.maintenance and last.comment == self.wish.comment
        return HOST if self.asked is not None or is_taken_in else CENTRE

    @property
    def takes_new(self) -> bool:
        """Whether new jobs are wanted here at all."""
        return not self.maintenance and not self.leaving

    def applied(self) -> Applied:
        """Return the answer to the last wish."""
        return Applied(
            revision=self.wish.revision,
            concurrency=self.concurrency,
            queues=self.queues,
            maintenance=self.maintenance,
            leaving=bool(self.leaving),
        )

    # Changes

    def hear(self, wish: Wish, *, in_full: bool) -> None:
        """Take the centre's wish.

        Args:
            wish: it.
            in_full: the gateway knows maintenance and shutdown. Where an older one does not, what was wished
                of them before stands.
        """
        if not in_full:
            known = self.wish
            wish = replace(wish, maintenance=known.maintenance, comment=known.comment, asked=known.asked)
        self.wish = wish
        if self.asked is not None and wish.asked >= self.asked.number:
            self.request = Request(self.asked, settled=True)
        if wish.shutdown:
            self.leave("an operator's wish")

    def next_request(self, *, maintenance: bool, comment: str) -> Request:
        """Return what a request on this host is written down as; `ask` puts it in force."""
        last = 0 if self.request is None else self.request.asked.number
        # Above the wish's too: this directory may have forgotten what it asked for before.
        number = max(last, self.wish.asked) + 1
        return Request(Asked(number=number, maintenance=maintenance, comment=comment))

    def ask(self, request: Request) -> None:
        """Put a request of this host in force."""
        self.request = request

    def leave(self, why: str) -> None:
        """Finish what runs and leave; never taken back."""
        self.leaving = self.leaving or why
