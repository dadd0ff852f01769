"""`python -m runtime.probe`: exit status 0 if this container's service is ready. Imports nothing that takes time."""

import os
import ssl
import sys
import urllib.error
import urllib.request

SECONDS = 4.0
USAGE = "python -m runtime.probe [live|ready]: ask the service of this container, on MODELWATCH_PORT (default 8080)"


def probe(kind: str) -> str:
    """Empty if all is well, else what the service answered."""
    encrypted = bool(os.environ.get("MODELWATCH_HTTP_CERTIFICATE_LOCATION"))
    url = f"{'https' if encrypted else 'http'}://127.0.0.1:{os.environ.get('MODELWATCH_PORT') or 8080}/health/{kind}"
    # Our own process on the loopback address: its certificate bears another name.
    context = ssl._create_unverified_context() if encrypted else None  # noqa: S323
    try:
        with urllib.request.urlopen(url, timeout=SECONDS, context=context):  # noqa: S310 - a URL of ours
            return ""
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read(2000).decode(errors='replace')}"
    except OSError as error:
        return f"{url} does not answer: {error}"


def main(arguments: list[str]) -> int:
    """Entry point: 0 well, 1 not, 2 called wrongly."""
    kind = arguments[0] if arguments else "ready"
    if len(arguments) > 1 or kind not in ("live", "ready"):
        print(USAGE, file=sys.stderr)  # noqa: T201
        return 2
    if said := probe(kind):
        print(said, file=sys.stderr)  # noqa: T201
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
