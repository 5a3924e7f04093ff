"""The process that is killed: adds facts and says so after each, or builds a base again and again."""

import sys
from itertools import count
from pathlib import Path

from tuili.knowledge.build import build
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store


def add(path: Path, start: int) -> None:
    """Add two facts at a time; print their number once they are acknowledged."""
    with Store.open(path, writable=True) as store:
        for number in count(start):
            store.add_facts([Edge(f"s{number}", "r", f"o{number}"), Edge(f"s{number}", "q", f"o{number}")])
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


def rebuild(path: Path, start: int) -> None:
    """Replace the base by generations of 3,000 facts; print each generation once it is built."""
    for number in count(start):
        build(path, (Edge(f"s{i}", f"generation {number}", f"o{i}") for i in range(3000)), origin=str(number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    {"add": add, "rebuild": rebuild}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
