"""Settings of the confusion agent."""

from pathlib import Path

from pydantic import Field, model_validator

from runtime.settings import AgentSettings

DAY = 86_400.0


class ConfusionSettings(AgentSettings):
    """What the confusion agent adds to the settings of every agent."""

    confusion_group: str = "modelwatch-confusion"
    """Consumer group; the instances of the agent that share it share the partitions."""
    state_folder: Path = Path("build/state")
    """Folder of the agent's local state; each instance makes one of its own in it. What is lost is read again."""
    join_keep_seconds: float = Field(DAY, gt=0, le=6 * DAY)
    """Time to live of a pair or a truth in the local state; feedback that comes later is joined through the record."""
    join_max_entries: int = Field(1_000_000, ge=1000)
    """Most requests in the local state of one partition; the oldest pairs leave earlier when there are more."""
    join_lookup_seconds: float = Field(30.0, gt=0)
    """After this long, a truth without its pair is looked up among the records."""
    join_orphan_seconds: float = Field(600.0, gt=0)
    """After this long, a truth without its pair goes to the dead letters."""
    performance_window_seconds: float = Field(30.0, ge=1)
    """Length of a window of performance, by the time of answering. The same for all instances."""
    performance_rolling_pairs: int = Field(1000, ge=1)
    """Figures `rolling` are of the newest windows that together hold this many labelled pairs, …"""
    performance_rolling_seconds: float = Field(DAY, gt=0)
    """… and begin at most this long before the newest of them."""
    performance_tick_seconds: float = Field(1.0, gt=0, le=60)
    """How often figures are brought up to date, and the state is looked through for what is too old."""

    @model_validator(mode="after")
    def _orphans_before_expiry(self) -> "ConfusionSettings":
        if not self.join_lookup_seconds <= self.join_orphan_seconds < self.join_keep_seconds:
            raise ValueError(
                "MODELWATCH_JOIN_LOOKUP_SECONDS must be at most MODELWATCH_JOIN_ORPHAN_SECONDS, and that less than "
                f"MODELWATCH_JOIN_KEEP_SECONDS; they are {self.join_lookup_seconds:g}, {self.join_orphan_seconds:g} "
                f"and {self.join_keep_seconds:g}"
            )
        return self
