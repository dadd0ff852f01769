"""Whether the brokers' topics are as `schemas.topics` and the settings want them, and what to do where they are not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.errors import ConfigurationError, TransientError
from schemas.topics import TOPICS, Topic


@dataclass(frozen=True, slots=True)
class TopicProblem:
    """A topic that is not as it should be.

    Attributes:
        found: its partitions; 0 if it does not exist.
        expected: how many it should have.
        alike: it should have so many because the topics that are joined with it do; then nothing works before it has.
    """

    topic: Topic
    found: int
    expected: int
    alike: bool = False

    @property
    def fatal(self) -> bool:
        """Whether processes cannot work so."""
        return self.alike or not self.found

    @property
    def found_text(self) -> str:
        """What there is and what was expected."""
        name = self.topic.name
        if not self.found:
            return f"topic {name} does not exist; expected {self.expected} partitions"
        why = "as the topics have that it is joined with" if self.alike else "MODELWATCH_KAFKA_PARTITIONS"
        return f"topic {name} has {self.found} partitions; expected {self.expected}, {why}"

    @property
    def remedy(self) -> str:
        """What to do."""
        if not self.found:
            return "create it with `modelwatch setup`"
        more = f"kafka-topics.sh --alter --topic {self.topic.name} --partitions {self.expected}"
        if self.alike:
            return (
                f"stop its writers and readers, then add partitions ({more}), or delete it and run `modelwatch setup`"
            )
        if self.topic.joined:
            return (
                f"set MODELWATCH_KAFKA_PARTITIONS={self.found}, or add partitions to all joined topics while nothing "
                f"waits on them ({more})"
            )
        return f"set MODELWATCH_KAFKA_PARTITIONS={self.found}, or add partitions ({more})"

    def __str__(self) -> str:
        return f"{self.found_text}: {self.remedy}"


def topic_problems(found: Mapping[str, int], partitions: int, topics: Iterable[Topic] = TOPICS) -> list[TopicProblem]:
    """What is wrong with these topics, the worst first.

    Args:
        found: the cluster's topics, and the number of partitions of each.
        partitions: how many the settings want of each; more are as good.
    """
    wanted = tuple(topics)
    most = max((found.get(topic.name, 0) for topic in wanted if topic.joined), default=0)
    problems = []
    for topic in wanted:
        number = found.get(topic.name, 0)
        if not number:
            problems.append(TopicProblem(topic, 0, most if topic.joined and most else partitions))
        elif topic.joined and number < most:
            problems.append(TopicProblem(topic, number, most, alike=True))
        elif number < partitions:
            problems.append(TopicProblem(topic, number, partitions))
    return sorted(problems, key=lambda problem: not problem.fatal)


def check_topics(found: Mapping[str, int], topics: Iterable[Topic]) -> None:
    """What a process that reads and writes these topics needs before it begins.

    Raises:
        TransientError: some do not exist (yet).
        ConfigurationError: as `check_joined`.
    """
    wanted = tuple(topics)
    if missing := sorted({topic.name for topic in wanted} - found.keys()):
        raise TransientError(f"topics are missing: {', '.join(missing)}; create them with `modelwatch setup`")
    check_joined(found, wanted)


def check_joined(found: Mapping[str, int], topics: Iterable[Topic] = TOPICS) -> None:
    """Raise `ConfigurationError` if topics that are joined by key differ: one id would not be on one partition."""
    if unlike := [problem for problem in topic_problems(found, 1, topics) if problem.alike]:
        raise ConfigurationError("; ".join(map(str, unlike)))
