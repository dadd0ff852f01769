"""Settings of the explanations agent."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from runtime.settings import AgentSettings


class ExplanationsSettings(AgentSettings):
    """What the explanations agent adds to the settings of every agent; methods and policies are set in model.yaml."""

    explanations_group: str = "modelwatch-explanations"
    """Consumer group; the instances of the agent that share it share the partitions."""
    explanations_ask: Literal["worker", "private"] = "worker"
    """Which model is asked: the worker's own, or a `private` copy that this agent loads."""
    worker_url: str = Field("http://127.0.0.1:8080", pattern=r"^https?://[^\s,]+(,https?://[^\s,]+)*$")
    """V2 endpoint of the worker, or of several: `http://a:8080,http://b:8080`."""
    worker_token: SecretStr | None = None
    """Bearer token that the worker wants: its MODELWATCH_HTTP_TOKEN."""
    worker_ca_certs: Path | None = None
    """PEM file of the authority that signed the worker's certificate."""
    worker_timeout_seconds: float = Field(5.0, gt=0, le=300)
    """One request to the worker; it is tried again until the explanation's deadline."""
    explanations_at_once: int = Field(8, ge=1, le=64)
    """Explanations under way; their model calls share the worker's batches."""
    explanations_in_hand: int = Field(64, ge=1, le=10_000)
    """Explanations under way and waiting; further questions wait on their topic."""
    explanation_seconds: float = Field(10.0, gt=0, le=3600)
    """Time for a question that brings no deadline, from when its turn comes."""
    explanation_pair_wait_seconds: float = Field(5.0, ge=0, le=600)
    """Longest wait for the pair of an id that is not known yet: a question may overtake its pair."""
    recent_pairs: int = Field(20_000, ge=0)
    """Pairs kept in memory; images of older ones come from the record store."""
    recent_pairs_bytes: int = Field(64 << 20, ge=0)
    """Most bytes that they may take."""
