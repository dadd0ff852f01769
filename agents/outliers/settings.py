"""Settings of the outliers agent."""

from pydantic import Field

from runtime.settings import AgentSettings


class OutliersSettings(AgentSettings):
    """What the outliers agent adds to the settings of every agent."""

    outliers_group: str = "modelwatch-outliers"
    """Consumer group; the instances of the agent that share it share the partitions."""
    explain_outliers_per_minute: float = Field(0.0, ge=0)
    """Explanations that flagged pairs of one model may ask for in a minute; more are dropped and counted. 0: none."""
    explain_outliers_burst: int = Field(5, ge=1)
    """How many of them may come at once."""
