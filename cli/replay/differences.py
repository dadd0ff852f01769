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
        gone: those that cannot be, because what they were computed from is no longer kept; and `gone_tests`.
        gone_tests: tests that cannot be, of windows whose pairs were found again.
        largest: largest difference of a p-value or a score among them.
        notes: why something could not be compared, which is not a difference.
    """

    compared: int = 0
    gone: int = 0
    gone_tests: int = 0
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

    def leave_out(self, what: str, why: str) -> None:
        """Note that something cannot be computed again, which is no difference."""
        self.gone += 1
        self.notes.append(f"{what}: {why}")

    def leave_test_out(self, what: str, why: str) -> None:
        """Note that one test of a window cannot be computed again; the window itself was."""
        self.gone_tests += 1
        self.leave_out(what, why)

    def compare_verdicts(self, what: str, name: str, recorded: bool, computed: bool, margin: float) -> None:
        """Note a difference if there is one, unless it turns on rounding.

        Args:
            margin: how far the number that decides is from its threshold, in units of the tolerance.
        """
        if recorded != computed and margin <= 1:
            self.notes.append(f"{what}: {name} was {recorded} and is {computed}: within the tolerance of its threshold")
        else:
            self.compare(what, name, recorded, computed)

    def compare_numbers(
        self, what: str, name: str, recorded: tuple[float, ...], computed: tuple[float, ...], tolerance: float
    ) -> None:
        """Note a difference if there is one of more than `tolerance`."""
        gaps = [abs(one - other) for one, other in zip(recorded, computed, strict=False)]
        self.largest = max([self.largest, *gaps])
        if len(recorded) != len(computed) or any(not gap <= tolerance for gap in gaps):
            self.add(what, name, recorded, computed)
