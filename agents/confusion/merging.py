"""How entries of one request are merged: a function of the set of what came, whatever its order and repetition."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agents.confusion.entries import EMPTY, PAIRS_LANE, Answer, Entry, Gone, Identity, PairHalf, Rank, Truth
from agents.confusion.truth import resolve, resolve_unnamed
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

Specs = Mapping[str, ModelSpec]

MAX_ANSWERS = 16
"""Answers to one request, by model and version; of more, the first by name stay."""
MAX_ANSWER_BYTES = 1 << 20
"""Of the probabilities of one request's answers together, as they are stored; its entry must fit into a message."""
MAX_TRUTHS = 8
"""Truths kept of one request about one model, or about all of them; those of the lowest rank go first."""
MAX_ALL_TRUTHS = 32
"""Truths kept of one request."""
AT_ONCE = 0.001
"""Seconds since the epoch: due, whatever the time."""


@dataclass(frozen=True, slots=True)
class Merge:
    """An entry with more merged into it.

    Attributes:
        refused: truths that turned out to fit none of the answers that they are about.
        repeated: answers that took the place of an earlier one of the same model version, by model.
        surplus: answers that are too many.
    """

    entry: Entry
    refused: tuple[tuple[Truth, Refusal], ...] = ()
    repeated: Counter[str] = field(default_factory=Counter)
    surplus: tuple[PairHalf, ...] = ()


def merge(old: Entry, part: Entry, specs: Specs) -> Merge:
    """Merge what came into what was known."""
    truths = highest(old.truths + part.truths)
    held: dict[Identity, PairHalf] = {half.identity: half for half in old.pairs}
    repeated = Counter[str]()
    for half in part.pairs:
        known = held.get(half.identity)
        if known is not None:
            repeated[half.model] += known.lane == half.lane == PAIRS_LANE and known.offset < half.offset
            half = _later(known, half)
        held[half.identity] = half
    kept = _within_bounds(held)
    pairs = tuple(_judged(half, truths, specs) for half in kept)
    gone = _gone((*old.gone, *part.gone), held)
    refused = _refused(pairs, part.truths if old.pairs else truths, specs)
    since, due = (old.since, old.due) if old.due else (part.since, part.due)
    entry = settled(Entry(pairs, truths, since, due, gone))
    surplus = tuple(half for half in part.pairs if half.identity not in {one.identity for one in kept})
    return Merge(entry, refused, +repeated, surplus)


def settled(entry: Entry) -> Entry:
    """The entry waits while a truth of it does: until its time, or no longer if none was set.

    Letters are kept of truths that wait.
    """
    waiting = {truth.rank for truth in pending(entry)}
    truths = tuple(
        one if one.letter is None or one.rank in waiting else replace(one, letter=None) for one in entry.truths
    )
    if not entry.pairs:
        truths = tuple(one for one in truths if one.rank in waiting)
        return Entry((), truths, entry.since, entry.due or AT_ONCE) if truths else EMPTY
    since, due = (entry.since, entry.due or AT_ONCE) if waiting else (0.0, 0.0)
    return replace(entry, truths=truths, since=since, due=due)


def pending(entry: Entry) -> list[Truth]:
    """Truths for which an answer must be looked for: about a model that has not answered, or newer than what an answer
    that has left the state has seen."""
    models = {half.model for half in entry.pairs} | {one.model for one in entry.gone}
    return [
        truth
        for truth in entry.truths
        if not any(map(truth.is_about, models))
        or any(truth.is_about(one.model) and (one.rank is None or truth.rank > one.rank) for one in entry.gone)
    ]


def leave(entry: Entry, leaving: Iterable[PairHalf]) -> Entry:
    """The entry without answers that leave the state."""
    left = [half for half in leaving if half in entry.pairs]
    stay = tuple(half for half in entry.pairs if half not in left)
    gone = _gone(
        (*entry.gone, *(departed(half, entry.truths) for half in left)), {half.identity: half for half in stay}
    )
    return settled(replace(entry, pairs=stay, gone=gone))


def departed(half: PairHalf, truths: Iterable[Truth]) -> Gone:
    """What is kept of an answer that leaves the state."""
    seen = [truth.rank for truth in truths if truth.is_about(half.model)]
    seen += [] if half.told is None else [half.told.rank]
    return Gone(half.model, half.version, max(seen, default=None))


def given_up(entry: Entry) -> Entry:
    """The entry without the truths that have waited in vain; what they are about besides is not touched."""
    vain = {truth.rank for truth in pending(entry)}
    models = {half.model for half in entry.pairs} | {one.model for one in entry.gone}
    truths = tuple(one for one in entry.truths if one.rank not in vain or any(map(one.is_about, models)))
    gone = tuple(_seen(one, [truth.rank for truth in truths if truth.is_about(one.model)]) for one in entry.gone)
    return settled(replace(entry, truths=truths if entry.pairs else (), gone=gone))


def highest(truths: Iterable[Truth]) -> tuple[Truth, ...]:
    """Distinct truths, the highest rank first, no more of each model than are kept."""
    by_rank: dict[Rank, Truth] = {}
    for truth in truths:
        by_rank.setdefault(truth.rank, truth)
    taken, found = defaultdict[str | None, int](int), list[Truth]()
    for rank in sorted(by_rank, reverse=True):
        truth = by_rank[rank]
        taken[truth.model] += 1
        if taken[truth.model] <= MAX_TRUTHS:
            found.append(truth)
    return tuple(found[:MAX_ALL_TRUTHS])


def answer_to(half: PairHalf, truth: Truth, specs: Specs) -> Answer:
    """What a truth says about an answer.

    Raises:
        Refusal: nothing: it is none of the model's classes, or another kind of truth.
    """
    spec = specs.get(half.model)
    if spec is None:
        answer = resolve_unnamed(truth.form, half)
    elif not half.has_labels_of(spec):
        answer = resolve_unnamed(truth.form, half, Reason.INVALID_FIELD)
    else:
        answer = resolve(truth.form, spec)
    half.check_comparable(answer)
    return answer


def _later(one: PairHalf, other: PairHalf) -> PairHalf:
    """Of two answers of one model version, the one that counts, with the higher of their truths."""
    told = max((half.told for half in (one, other) if half.told is not None), key=lambda it: it.rank, default=None)
    return replace(other if other.standing > one.standing else one, told=told)


def _within_bounds(held: Mapping[Identity, PairHalf]) -> list[PairHalf]:
    kept, size = list[PairHalf](), 0
    for identity in sorted(held)[:MAX_ANSWERS]:
        size += len(held[identity].probabilities)
        if size > MAX_ANSWER_BYTES and kept:
            break
        kept.append(held[identity])
    return kept


def _judged(half: PairHalf, truths: Iterable[Truth], specs: Specs) -> PairHalf:
    """With the highest truth that fits it."""
    for truth in truths:
        if half.told is not None and truth.rank <= half.told.rank:
            return half
        if not truth.is_about(half.model):
            continue
        try:
            form = answer_to(half, truth, specs)
        except Refusal:
            continue
        return replace(half, told=replace(truth, form=form, letter=None, model=None))
    return half


def _refused(pairs: Iterable[PairHalf], truths: Iterable[Truth], specs: Specs) -> tuple[tuple[Truth, Refusal], ...]:
    """Truths that fit none of the answers that they are about, each with why."""
    found = []
    for truth in truths:
        refusals = [_refusal(half, truth, specs) for half in pairs if truth.is_about(half.model)]
        if refusals and (first := refusals[0]) is not None and None not in refusals:
            found.append((truth, first))
    return tuple(found)


def _refusal(half: PairHalf, truth: Truth, specs: Specs) -> Refusal | None:
    try:
        answer_to(half, truth, specs)
    except Refusal as refusal:
        return refusal
    return None


def _gone(gone: Iterable[Gone], held: Mapping[Identity, PairHalf]) -> tuple[Gone, ...]:
    """Of each model version that is not held, the one that has seen most."""
    found: dict[Identity, Gone] = {}
    for one in gone:
        if one.identity in held:
            continue
        known = found.get(one.identity)
        found[one.identity] = one if known is None or known.rank is None else _seen(known, [one.rank or known.rank])
    return tuple(found[identity] for identity in sorted(found)[:MAX_ANSWERS])


def _seen(gone: Gone, ranks: Iterable[Rank]) -> Gone:
    return replace(gone, rank=max([*ranks, *([] if gone.rank is None else [gone.rank])], default=None))
