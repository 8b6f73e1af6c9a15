"""What is wished of this worker, by the centre and on its own host, and what of it is in force: pure.

Of two wishes for maintenance the later one counts. Knows nothing of connections, of jobs, or of where a
request is kept.
"""

from __future__ import annotations

from dataclasses import replace

from edge_ws.protocol.frames import Applied, Asked, Wish

CENTRE = "centre"
HOST = "host"


class Wishes:
    """The local defaults, the centre's last wish and the host's last request."""

    def __init__(self, concurrency: int, queues: tuple[str, ...] | None, asked: Asked | None = None) -> None:
        """Make it.

        Args:
            concurrency: the local default.
            queues: likewise; None: every queue.
            asked: what was last asked for on this host, in whichever life of the daemon.
        """
        self._concurrency = concurrency
        self._queues = queues
        self.asked = asked
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
    def _by_host(self) -> Asked | None:
        """The host's request, as long as no wish has taken it in or come after it."""
        return self.asked if self.asked is not None and self.asked.number > self.wish.asked else None

    @property
    def maintenance(self) -> bool:
        """Whether nothing new is taken, though the worker stays."""
        return self.wish.maintenance if self._by_host is None else self._by_host.maintenance

    @property
    def comment(self) -> str:
        """Why there is maintenance; empty if there is none."""
        if not self.maintenance:
            return ""
        return self.wish.comment if self._by_host is None else self._by_host.comment

    @property
    def maintained_by(self) -> str:
        """Who wants the maintenance, `host` or `centre`; empty if there is none."""
        if not self.maintenance:
            return ""
        # A wish that has taken the host's request in repeats it.
        asked = self.asked
        is_taken_in = asked is not None and asked.maintenance and asked.comment == self.wish.comment
        return HOST if self._by_host is not None or is_taken_in else CENTRE

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
        if wish.shutdown:
            self.leave("an operator's wish")

    def request(self, *, maintenance: bool, comment: str) -> Asked:
        """Return what a request on this host is written down as; `ask` puts it in force."""
        last = 0 if self.asked is None else self.asked.number
        # Above the wish's too: this directory may have forgotten what it asked for before.
        return Asked(number=max(last, self.wish.asked) + 1, maintenance=maintenance, comment=comment)

    def ask(self, asked: Asked) -> None:
        """Put a request of this host in force."""
        self.asked = asked

    def leave(self, why: str) -> None:
        """Finish what runs and leave; never taken back."""
        self.leaving = self.leaving or why
