"""Entry point of `modelwatch`: takes Ctrl-C while the command is still being imported, and then runs it."""

import os
import signal

INTERRUPTED = 130


def main() -> None:
    """Run the command. Ctrl-C before it runs ends this at once and in silence; nothing is in hand then."""
    if taken := signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from cli.main import main as run

    if taken:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
