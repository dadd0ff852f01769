"""What an audit found."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One thing that is not as recorded.

    Attributes:
        what: a window's or a request's id.
        field: what differs.
    """

    what: str
    field: str
    recorded: Any
    computed: Any


@dataclass
class Audit:
    """The result of one kind of check.

    Attributes:
        compared: windows or verdicts that were computed again.
        largest: largest difference of a p-value or a score among them.
        notes: why something could not be compared, which is not a difference.
    """

    compared: int = 0
    largest: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, name: str, recorded: Any, computed: Any) -> None:
        """Note a difference."""
        self.differences.append(Difference(what, name, recorded, computed))

    def compare(self, what: str, name: str, recorded: Any, computed: Any) -> None:
        """Note a difference if there is one."""
        if recorded != computed:
            self.add(what, name, recorded, computed)

    def compare_numbers(
        self, what: str, name: str, recorded: tuple[float, ...], computed: tuple[float, ...], tolerance: float
    ) -> None:
        """Note a difference if there is one of more than `tolerance`."""
        gaps = [abs(one - other) for one, other in zip(recorded, computed, strict=False)]
        self.largest = max([self.largest, *gaps])
        if len(recorded) != len(computed) or any(not gap <= tolerance for gap in gaps):
            self.add(what, name, recorded, computed)
