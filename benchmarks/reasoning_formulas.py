"""Derivations over a collection of physics formulas: chains from given arguments, and answers from English text.

What each row means and what it does not say is in `benchmarks/README.md`. Data: `formulas/` of the data folder
(FormulaReasoning); `--test FILE` takes questions in the format of `hof_test.json`.
"""

from __future__ import annotations

from collections.abc import Iterator

from reasoning.formulas_answer import text_results
from reasoning.formulas_chain import chain_results
from reasoning.formulas_policy import train_chooser, train_policy
from reasoning.formulas_setup import set_up
from runner import Options, Result, run, say

SEED = 0


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    folder = options.data / "formulas" if options.data else None
    if folder is None or not folder.is_dir():
        say("skipped: no folder `formulas` among the data sets")
        return
    setup = set_up(folder, options.test, smoke=options.smoke)
    for note in setup.notes:
        say(note)
    if options.wants("formulas.chain"):
        policy = train_policy(setup, SEED, smoke=options.smoke)
        chooser = train_chooser(setup, policy, SEED, smoke=options.smoke)
        yield from chain_results("formulas.chain", setup, policy, chooser)
    if options.wants("formulas.text"):
        yield from text_results("formulas.text", setup)


if __name__ == "__main__":
    run(__doc__ or "", measure)
