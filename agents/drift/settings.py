"""Settings of the drift agent."""

from pydantic import Field

from runtime.settings import AgentSettings


class DriftSettings(AgentSettings):
    """What the drift agent adds to the settings of every agent; windows are set in each model's model.yaml."""

    drift_group: str = "modelwatch-drift"
    """Consumer group; the instances of the agent that share it share the partitions."""
    tick_seconds: float = Field(1.0, gt=0, le=3600)
    """How often to look for windows that are over-age."""
