"""Settings of the inference worker."""

from pydantic import Field, SecretStr

from runtime.settings import Settings


class WorkerSettings(Settings):
    """What the worker adds to the common settings."""

    max_wait_seconds: float = Field(0.01, gt=0, le=5)
    """Longest wait for a batch to fill. Longer: fuller batches; shorter: lower latency when traffic is thin."""
    pipeline_depth: int = Field(4, ge=1, le=64)
    """Chunks of messages between fetching and publishing; 1 disables the overlap."""
    decoded_bytes: int = Field(256 << 20, ge=96 << 20)
    """Bytes of messages and decoded images of Kafka callers in hand; fetching waits while there are more."""
    transaction_seconds: float = Field(0.05, gt=0, le=10)
    """Least time between two commits under load, so that several batches share a transaction."""
    group: str = "modelwatch-inference"
    """Consumer group; the workers that share it share the partitions."""
    static_membership: bool = True
    """Keep the partitions over a restart (group.instance.id from MODELWATCH_INSTANCE). Needs a stable instance name."""
    session_timeout_ms: int = Field(30_000, ge=1_000)
    """A worker silent for this long loses its partitions to the others."""
    compute_stuck_seconds: float = Field(60.0, gt=0, le=3600)
    """A batch that computes for longer makes the worker not ready; after as long again, health says it is not alive."""
    http_max_pending: int = Field(512, ge=1)
    """Images waiting from HTTP callers; more are refused with status 503."""
    http_max_bytes: int = Field(256 << 20, ge=64 << 20)
    """Bytes of bodies and images of HTTP callers in hand; what comes beyond is refused with status 503."""
    http_timeout_seconds: float = Field(30.0, gt=0, le=600)
    """An HTTP caller is answered within this time: with status 504 at the latest, 408 if its body was not there."""
    http_token: SecretStr | None = Field(None, min_length=16)
    """Bearer token that HTTP callers must bring, of 16 characters or more; metrics and health need none."""
    mixed_precision: bool = False
    """Compute in float16 where that is safe, on a GPU."""
    compute_threads: int = Field(0, ge=0)
    """TensorFlow's threads within one operation; 0 for one a core."""
    compute_streams: int = Field(2, ge=1, le=16)
    """Batches computed at the same time. With 1, cores stand still whenever one of a batch's threads has to wait."""
