"""How far the clock of arrivals has come, as the answers of a subscription prove it. Pure: no clock, no I/O, no Beam.

Times are int us.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

STRIDE = 4  # answers that `slack` takes, at least: one empty answer proves nothing


class PullAnswer(NamedTuple):
    """A pull that the service answered."""

    covers: int  # us of pulling between the pull before and this one
    bound: int | None  # what the clock may have come to when it began
    oldest: int | None  # earliest arrival among its messages


class Watermark:
    """The watermark of one puller of a subscription.

    It promises: no message with an arrival before it comes for the first time after it. For this it relies on the
    service: a message that waits is not passed over for `slack` us of pulling. An answer passes it over that holds
    neither the message nor one as old, though it had been published when the pull began (by publish time), or
    though a newer one had been delivered by then (by an attribute). Us of pulling are those between two answered
    pulls, of which at most slack / 4 count: a stall proves nothing. Slack has to take in the time in which a message
    becomes available, disorder among the answers, disorder of the publisher (by an attribute), and a local clock
    ahead of the service's (by publish time). A local clock behind it does no harm: where a message was published
    later than the clock says, its publish time counts.

    Messages that are leased to nobody (of a worker that died, of a pull that broke off) do not wait: they cannot be
    had before their lease ends. `hold` is for that.

    The value is the least of
      - what stood when the first of the last `slack` us of pulls began: the newest arrival delivered so far, and by
        publish time the time of day if that is later. An idle subscription so moves on by publish time, and stands
        at the newest arrival by an attribute; as it does by publish time while a clock that was set back comes on,
      - the earliest arrival among the messages since.
    """

    def __init__(self, slack: int, by_attribute: bool = False) -> None:
        self.slack, self.by_attribute = slack, by_attribute
        self.newest: int | None = None  # arrival, of all messages so far
        self.value: int | None = None  # never goes back; None before anything is proved
        self._answers: deque[PullAnswer] = deque()
        self._covered = 0  # us of pulling after the first of the answers
        self._last: int | None = None  # start of the last answered pull
        self._until: int | None = None

    def hold(self, until: int) -> None:
        """Pulls that begin before `until` (of the time that only passes) prove nothing, nor do those so far."""
        self._until = until if self._until is None else max(self._until, until)
        self._answers.clear()
        self._covered, self._last = 0, None

    def answered(
        self, start: int, oldest: int | None = None, newest: int | None = None, wall: int | None = None
    ) -> None:
        """A pull was answered, with messages that arrived from `oldest` to `newest`, or none.

        Args:
          start: when it began, of a time that only passes.
          wall: the time of day then; the same as `start` where None.
        """
        if newest is not None:
            self.newest = newest if self.newest is None else max(self.newest, newest)
        if self._until is not None and start < self._until:
            return
        covers = 0 if self._last is None else max(0, min(start - self._last, self.slack // STRIDE))
        self._last = start
        self._answers.append(PullAnswer(covers, self._bound(start if wall is None else wall), oldest))
        self._covered += covers if len(self._answers) > 1 else 0
        while len(self._answers) > 1 and self._covered - self._answers[1].covers >= self.slack:
            self._answers.popleft()
            self._covered -= self._answers[0].covers
        bound = self._answers[0].bound
        if self._covered >= self.slack and bound is not None:
            value = min([bound, *(a.oldest for a in self._answers if a.oldest is not None)])
            self.value = value if self.value is None else max(self.value, value)

    def _bound(self, wall: int) -> int | None:
        """What the clock of arrivals may have come to in a pull that began at a time of day."""
        if self.by_attribute or self.newest is None:
            return self.newest if self.by_attribute else wall
        return max(wall, self.newest)


@dataclass
class Share:
    """What one of several pullers has proved."""

    committed: int | None = None  # when its last bundle that the runner has kept ended
    reported: int | None = None  # when its last bundle ended


class Together:
    """The least watermark of the pullers of one process.

    A message that one puller has in a bundle is out of sight of the others: until the runner has kept that bundle,
    they may not pass what its puller had proved before. A runner that takes the least watermark of all pullers sees to
    it by itself; Prism takes the last one it was told.
    """

    def __init__(self) -> None:
        self._shares: dict[int, Share] = {}

    def begin(self, puller: int, goes_on: bool) -> None:
        """A bundle begins. `goes_on`: where the last one ended, so that the runner has kept that one."""
        share = self._shares.setdefault(puller, Share())
        share.committed = share.reported = share.reported if goes_on else None

    def end(self, puller: int, value: int | None) -> int | None:
        """A bundle ends with what its puller has proved. Returns what all have."""
        self._shares[puller].reported = value
        known = [value, *(share.committed for n, share in self._shares.items() if n != puller)]
        return None if None in known else min(v for v in known if v is not None)

    def leave(self, puller: int) -> None:
        """A puller that holds nothing back any more."""
        self._shares.pop(puller, None)
