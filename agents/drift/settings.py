"""Settings of the drift agent."""

from pydantic import Field

from runtime.settings import AgentSettings


class DriftSettings(AgentSettings):
    """What the drift agent adds to the settings of every agent; windows are set in each model's model.yaml."""

    group: str = "modelwatch-drift"
    """Consumer group; the instances of the agent that share it share the partitions."""
    port: int = Field(8082, ge=0, le=65535)
    """Port of the HTTP server: /metrics and /health. 0: any free one."""
    tick_seconds: float = Field(1.0, gt=0, le=3600)
    """How often to look for windows that are over-age."""
