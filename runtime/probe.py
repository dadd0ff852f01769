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
    tls = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())  # noqa: S323
    # Nor does a proxy that the environment names know this container's loopback address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)
    try:
        with opener.open(url, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read(2000).decode(errors='replace')}"
    except OSError as error:
        return f"{url} does not answer: {error}"


def main(arguments: list[str]) -> int:
    """Entry point: 0 well, 1 not, 2 called wrongly."""
    kind = arguments[0] if arguments else "ready"
    if kind in ("-h", "--help"):
        print(USAGE)  # noqa: T201
        return 0
    if len(arguments) > 1 or kind not in ("live", "ready"):
        print(USAGE, file=sys.stderr)  # noqa: T201
        return 2
    if said := probe(kind):
        print(said, file=sys.stderr)  # noqa: T201
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
