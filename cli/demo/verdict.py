"""The demo's verdict: the checks made, and the figures beside them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Verdict:
    """The checks made, and the figures beside them."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def check(self, name: str, expected: Any, observed: Any, ok: bool) -> None:
        """Add a check."""
        self.checks.append({"name": name, "expected": expected, "observed": observed, "ok": bool(ok)})

    @property
    def failed(self) -> list[str]:
        """Names of the checks that do not hold."""
        return [check["name"] for check in self.checks if not check["ok"]]

    @property
    def ok(self) -> bool:
        """Whether every check holds; a verdict without checks does not."""
        return bool(self.checks) and not self.failed
