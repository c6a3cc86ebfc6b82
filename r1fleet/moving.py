"""Something that grows towards a known size: how far, how fast, how long still. Pure."""

from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 20.0  # a rate is that of the last seconds: neither of one jump nor of the whole run


@dataclass(frozen=True)
class Moving:
    """A download under way."""

    name: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds still to go; None while nothing moves, as at less than a byte per second."""
        left = max(0, self.total_bytes - self.done_bytes)
        return left / self.bytes_per_s if self.bytes_per_s >= 1 else None

    @property
    def share(self) -> float:
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0


@dataclass
class Speed:
    """The rate of something that grows, over the last seconds."""

    points: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, at_s: float, done_bytes: int) -> float:
        """Take in a point; bytes per second by now."""
        if self.points and done_bytes < self.points[-1][1]:
            self.points.clear()  # begun anew
        self.points.append((at_s, done_bytes))
        while len(self.points) > 2 and at_s - self.points[0][0] > WINDOW_S:
            self.points.popleft()
        since_s, before = self.points[0]
        return (done_bytes - before) / (at_s - since_s) if at_s > since_s else 0.0
