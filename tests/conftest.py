"""Fixtures that every folder uses: the models, the built-in bases, a tiny base.

Models and built-in bases lie in TUILI_HOME, by default .tuili beside the tests; `make test` puts them there.
What is missing there fails, it is not skipped.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tuili import Reasoner
    from tuili.knowledge.records import Record

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.setdefault("TUILI_HOME", str(ROOT / ".tuili")))
sys.path.insert(0, str(ROOT / "scripts"))

settings.register_profile(
    "ci", max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TUILI_HOME."""
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of TUILI_HOME that holds the packaged models."""
    from tuili.model.packaged import PACKAGED, verify

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUILI_HOME", str(SHARED))
        for name in PACKAGED:
            verify(name, thorough=False)
    return SHARED / "models"


def built_in(name: str) -> Path:
    """Return the file of a built-in base, built by the first worker that asks."""
    from bring import bring_base

    (SHARED / "kb").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, FileLock(SHARED / "kb" / ".tests.lock"):
        patch.setenv("TUILI_HOME", str(SHARED))
        return bring_base(name)


@pytest.fixture(scope="session")
def python_base() -> Path:
    """The file of the base of the standard library."""
    return built_in("python")


@pytest.fixture(scope="session")
def formulas_base() -> Path:
    """The file of the base of formulas."""
    return built_in("formulas")


@pytest.fixture(scope="session")
def hpo_base() -> Path:
    """The file of the base of diseases and findings."""
    return built_in("hpo")


@pytest.fixture
def tiny_base(tmp_path: Path) -> Path:
    """A base of a few films, people and genres."""
    from tuili.knowledge.build import build
    from tuili.knowledge.records import Edge, Kind, Node, Relation

    records: list[Record] = [
        Kind("film", "A film", ("film", "movie")),
        Kind("person", "A person", ("person", "who")),
        Kind("genre", "A genre", ("genre",)),
        Relation("directed by", "director of", "", ("film",), ("person",), ("directed by",), ("directed",)),
        Relation("has genre", "genre of", "", ("film",), ("genre",), ("has genre",), ("genre of",)),
        Relation("is a", "", "", ("genre",), ("genre",), ("is a",), ("kind of",), transitive=True),
        Node("film:alien", "film", "Alien", "A crew meets a stranger.", ("Alien 1979",), {"year": 1979}),
        Node("film:duel", "film", "The Duellists", "Two officers fight for years."),
        Node("person:scott", "person", "Ridley Scott", aliases=("Sir Ridley Scott",)),
        Node("genre:horror", "genre", "Horror"),
        Node("genre:sf-horror", "genre", "Science fiction horror"),
        Edge("film:alien", "directed by", "person:scott", 1.0, "films.tsv:1"),
        Edge("film:duel", "directed by", "person:scott", 1.0, "films.tsv:2"),
        Edge("film:alien", "has genre", "genre:sf-horror", 0.9, "films.tsv:3", {"votes": 7}),
        Edge("genre:sf-horror", "is a", "genre:horror", 1.0, "films.tsv:4"),
    ]
    path = tmp_path / "films.sqlite"
    build(path, records, origin="films")
    return path


@pytest.fixture(scope="session")
def reasoner_over(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reasoner]:
    """Return a function that makes a reasoner over a base of the given records, by default without the encoder."""
    from tuili import Reasoner, ReasonerConfig
    from tuili.knowledge.build import build

    def make(records: Iterable[Record], *, neural: bool = False, **config: int) -> Reasoner:
        home = tmp_path_factory.mktemp("home")
        build(home / "kb" / "small.sqlite", records, origin="test")
        reasoner = Reasoner("small", config=ReasonerConfig(neural=neural, **config))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUILI_HOME", str(home))
            reasoner.base("small")
        return reasoner

    return make


@pytest.fixture(scope="session")
def garden(reasoner_over: Callable[..., Reasoner]) -> Reasoner:
    """A reasoner over a small base with every property that a schema can give to kinds and relations."""
    from tuili.knowledge.sources.triples import read_jsonl

    return reasoner_over(read_jsonl(ROOT / "tests" / "garden.jsonl"))


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a tiny random decoder with a tokenizer, as a folder; equal calls share one."""
    made: dict[tuple[object, ...], Path] = {}

    def make(*, seed: int = 0, window: int = 1024, chat: bool = True) -> Path:
        key = (seed, window, chat)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("decoder")
            _save_decoder(made[key], seed, window, chat=chat)
        return made[key]

    return make


def _save_decoder(folder: Path, seed: int, window: int, *, chat: bool) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(random.__file__).read_text(encoding="utf-8")], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        fast.chat_template = "{% for m in messages %}<s>{{ m['content'] }}\n{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=window,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
