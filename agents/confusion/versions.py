"""How many versions of a model are kept: figures and sums of all that ever were would grow for good."""

from collections import defaultdict
from collections.abc import Collection, Mapping

KEPT_VERSIONS = 10
"""Of each model: the present one, and the last ones that answered."""


def surplus(newest: Mapping[tuple[str, str], int], kept: Collection[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Model versions that are too many.

    Args:
        newest: the highest window that a version has, or had, a pair in, by model and version.
        kept: these stay in any case, and count.
    """
    by_model = defaultdict[str, list[tuple[str, str]]](list)
    for group in newest:
        by_model[group[0]].append(group)
    found: list[tuple[str, str]] = []
    for groups in by_model.values():
        groups.sort(key=lambda group: (group in kept, newest[group], group))
        found += [group for group in groups[:-KEPT_VERSIONS] if group not in kept]
    return found
