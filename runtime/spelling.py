"""The word that was probably meant: for messages about a name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean X?` about the most similar of the known names, or nothing if none is similar.

    Args:
        prefix: what all names begin with, which makes none of them more similar.
    """
    rests = [one.removeprefix(prefix) for one in known if one.startswith(prefix)]
    found = get_close_matches(name.removeprefix(prefix), rests, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
