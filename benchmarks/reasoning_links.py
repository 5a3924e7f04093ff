"""Missing links of UMLS and Kinships: (head, relation, ?) after MINERVA's protocol, filtered, ties at their mean rank.

Every figure is a mean over seeds (TUILI_SEEDS, 5 by default), its spread the standard deviation, n the number of
seeds; differences (`.gain`) are bootstrapped in pairs over all queries of all seeds. Facts of the test part are used
for filtering alone; mixtures are fitted on the validation part. `--test` takes a folder with train.txt, valid.txt and
test.txt in place of the packaged sets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from reasoning.links_data import PACKAGED, Links, packaged, read, small
from reasoning.links_report import report
from runner import Options, Result, run

EVERY, NUM_QUERIES = 12, 30


def num_seeds() -> int:
    """Return how many seeds are run: TUILI_SEEDS, else 5."""
    return max(1, int(os.environ.get("TUILI_SEEDS", "5")))


def data_sets(options: Options) -> Iterator[Links]:
    """Yield the data sets that are asked for."""
    if options.test is not None:
        yield read(options.test.resolve().name, options.test)
        return
    folder = packaged()
    for name, place in PACKAGED.items() if folder else ():
        if options.wants(name):
            yield read(name, Path(str(folder)) / place)


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    for links in data_sets(options):
        chosen = small(links, EVERY, NUM_QUERIES) if options.smoke else links
        yield from report(chosen, 1 if options.smoke else num_seeds(), options)


if __name__ == "__main__":
    run(__doc__ or "", measure)
