"""Questions of one to three hops over films (MetaQA), answered by a walk conditioned on the question.

The walk learns from questions and answers alone: half of the development questions of each number of hops at most,
their paths found by search. A quarter is for choosing settings, a quarter is scored; with `--test FOLDER` the
`{1,2,3}hop_*.tsv` in it are scored instead. What each row means is in `benchmarks/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

from reasoning.metaqa import Bench
from reasoning.metaqa_data import HOPS
from reasoning.metaqa_rows import edges, half_base, held_out, seen
from runner import Options, Result, run, say


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    if options.data is None or not (options.data / "metaqa" / "kb.tsv").is_file():
        say("MetaQA is not there (--data FOLDER with metaqa/kb.tsv and metaqa/{1,2,3}hop_dev.tsv): skipped")
        return
    bench = Bench(options)
    if any(options.wants(f"metaqa.{num_hops}hop.{row}") for num_hops in HOPS for row in SEEN):
        yield from seen(bench)
    if options.wants("metaqa.3hop.edges"):
        yield from edges(bench)
    if any(options.wants(f"metaqa.{num_hops}hop.heldout_templates") for num_hops in HOPS[1:]):
        yield from held_out(bench)
    if options.wants("metaqa.3hop.half_kb"):
        yield from half_base(bench)


SEEN = ("hits1", "exact", "f1", "gold_path", "ppo_gain")

if __name__ == "__main__":
    run(__doc__ or "", measure)
