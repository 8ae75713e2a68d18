"""Which recordings of a data set are for testing: rules that give the same answer on every machine.

A recording is called "CLASS/NAME", without the suffix of its file, so that another file format changes nothing. No rule looks
at the order in which a file system lists files.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..checks import fraction, whole_number
from ..files import lines_of, spelling


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted as people count: "2" comes before "10"."""
    return sorted(
        names, key=lambda name: [(p.isdecimal(), int(p) if p.isdecimal() else p) for p in re.split(r"(\d+)", name)]
    )


def by_seed(names: Sequence[str], share: float = 0.2, seed: int = 0) -> set[str]:
    """The recordings for testing: in each class the share of them with the smallest SHA-256 of "SEED CLASS/NAME".

    A class keeps at least one recording for training, and one for testing.

    Args:
        names: names of all recordings.
        share: share for testing, in [0, 1).
        seed: another one gives another split.

    Raises:
        ValueError: the share is out of range, or a class has a single recording.
    """
    share, seed = fraction("share", share), whole_number("seed", seed)  # 1.0 would give another split than 1
    classes: dict[str, list[str]] = {}
    for name in names:
        classes.setdefault(name.split("/")[0], []).append(name)
    testing: set[str] = set()
    for label, members in classes.items():
        if len(members) < 2:
            raise ValueError(f"class {label} has one recording; to split it, it needs two.")
        ranked = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
        testing.update(ranked[: min(max(1, round(share * len(members))), len(members) - 1)])
    return testing


def by_number(names: Sequence[str], below: int = 100) -> set[str]:
    """The recordings for testing: those whose name ends with a number below ``below``.

    With 100 these are 100 of the 1000 recordings in each class of CIFAR10-DVS. That data set has no split of its own, and
    accuracies under different splits cannot be compared.

    Raises:
        ValueError: a name does not end with a number.
    """
    numbers = {name: re.search(r"(\d+)$", name) for name in names}
    without = [name for name, number in numbers.items() if number is None]
    if without:
        raise ValueError(f"the recording {without[0]} does not end with a number, by which the data set is split.")
    return {name for name, number in numbers.items() if number is not None and int(number[1]) < below}


def in_list(names: Sequence[str], path: str | Path) -> set[str]:
    """The recordings that a text file names: one "CLASS/NAME" in a line, with or without the file's suffix.

    Raises:
        ValueError: there is no such file, it is empty, or it names a recording that is not there, or one twice.
    """
    known = {spelling(name): name for name in names}
    listed: set[str] = set()
    for line in lines_of(path):
        written = spelling(line) if spelling(line) in known else spelling(line).rpartition(".")[0]
        if written not in known:
            raise ValueError(
                f"{path} names {line}, which is no recording of the data set; its first one is {names[0]}."
            )
        name = known[written]
        if name in listed:
            raise ValueError(f"{path} names the recording {name} twice; name each one once.")
        listed.add(name)
    if not listed:
        raise ValueError(f"{path} names no recording.")
    return listed


def equal_files(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Files with the same bytes, several in each list; files whose length no other has are not read."""
    alike: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        alike[path.stat().st_size].append(path)
    for candidates in alike.values():
        same: dict[bytes, list[Path]] = defaultdict(list)
        for path in candidates if len(candidates) > 1 else ():
            with path.open("rb") as file:
                same[hashlib.file_digest(file, "sha256").digest()].append(path)
        yield from (group for group in same.values() if len(group) > 1)
