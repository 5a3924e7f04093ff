"""Speed of dynamic sparse attention on SmolLM2-135M: attention alone, whole prefill, decode, growth, whole answers.

All sides run in turn in one process over real text; a speedup is the median of the paired ratios. Lengths above the
model's window of 8,192 measure speed only. What each row means is in `benchmarks/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

from attending.alone import alone
from attending.answer import answer
from attending.whole import whole
from runner import Options, Result, run, say


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    from tuili.runtime import keep_memory

    kept = "is" if keep_memory() else "is not, as the C library or the environment has it,"
    say(f"memory of freed tensors {kept} reused, on all sides")
    if options.test is not None:
        say("--test changes nothing here: this is speed alone; benchmarks/port_quality.py reads texts")
    if options.wants("attention."):
        yield from alone(options)
    if options.wants("prefill.") or options.wants("decode."):
        yield from whole(options)
    if options.wants("answer."):
        yield from answer(options)


if __name__ == "__main__":
    run("Speed of sparse attention", measure)
