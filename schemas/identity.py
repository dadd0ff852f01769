"""What tells one prediction from another, and the id of its record.

A prediction is (model, version, request id): one request id may be answered by several models and versions, and each
answer is counted, judged and recorded for itself.
"""

import hashlib

MAX_ID_BYTES = 512
"""Of an id in UTF-8: what Elasticsearch takes as the id of a document."""


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
