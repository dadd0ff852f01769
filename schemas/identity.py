"""What tells one prediction from another, and the id of its record.

A prediction is (model, version, request id): one request id may be answered by several models and versions, and each
answer is counted, judged and recorded for itself.
"""

import hashlib
import json
from functools import lru_cache

MAX_ID_BYTES = 512
"""Of an id in UTF-8: what Elasticsearch takes as the id of a document."""


@lru_cache(1 << 10)
def labels_id(labels: tuple[str, ...]) -> str:
    """Short name of a classifier's labels in their order, so that those of two versions are told apart.

    It is the beginning of the SHA-256 of their JSON list, in ASCII and without spaces.
    """
    return hashlib.sha256(json.dumps(labels, separators=(",", ":")).encode()).hexdigest()[:16]


def record_id(request_id: str, model: str, version: str, primary: bool) -> str:
    """Id of a prediction's record.

    Args:
        primary: whether the model is the one that answers requests which name none. Its answer keeps the request id;
            that of any other model adds model and version, so that no answer takes another's record.
    """
    if primary:
        return request_id
    qualified = f"{request_id}@{model}:{version}"
    if len(qualified.encode()) <= MAX_ID_BYTES:
        return qualified
    return f"{hashlib.sha256(request_id.encode()).hexdigest()}@{model}:{version}"
