from pathlib import Path

import numpy as np
import pytest

from tuili.errors import ModelFileError
from tuili.knowledge.graph import Graph
from tuili.knowledge.store import Store
from tuili.reason.conditioning import Conditioning, shapes
from tuili.reason.guide import FEATURES
from tuili.reason.policy import Policy
from tuili.reason.walk_file import FORMAT, Learned, Sureness, fingerprint, load, save


def learned(with_policy: bool = True) -> Learned:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes(6, 4).items()}
    known = {name: rng.normal(size=4).astype(np.float32) for name in ("parent", "parent⁻¹", "works at")}
    policy = Policy.of_prior(FEATURES, 3) if with_policy else None
    return Learned(Conditioning(weights, known, "words-1", 2), policy, Sureness(1.5, -0.25), "f" * 64, {"ece": 0.02})


@pytest.mark.parametrize("with_policy", [True, False])
def test_a_file_keeps_everything(tmp_path: Path, with_policy: bool) -> None:
    own = learned(with_policy)
    save(own, tmp_path / "walk.safetensors")
    read = load(tmp_path / "walk.safetensors", trained_for="f" * 64)
    assert (read.sureness, read.trained_for, read.info) == (own.sureness, own.trained_for, own.info)
    assert (read.conditioning.reader_name, read.conditioning.max_hops) == ("words-1", 2)
    for kept, given in (("weights", own.conditioning.weights), ("known", own.conditioning.known)):
        found = getattr(read.conditioning, kept)
        assert found.keys() == given.keys() and all(np.array_equal(found[name], given[name]) for name in given)
    assert (read.policy is not None) is with_policy
    if read.policy is not None:
        assert read.policy.feature_names == FEATURES and read.policy.trained_for == "f" * 64


def test_a_walk_of_other_relations_is_refused_but_may_be_a_start(tmp_path: Path) -> None:
    save(learned(), tmp_path / "walk.safetensors")
    with pytest.raises(ModelFileError, match=r"learned for other relations .*--from"):
        load(tmp_path / "walk.safetensors", trained_for="0" * 64)
    assert load(tmp_path / "walk.safetensors").trained_for == "f" * 64


@pytest.mark.parametrize(
    "change, why",
    [
        ({"format": "other"}, "no learned walk"),
        ({"format": "tuili-walk-1"}, "earlier version of tuili; run `tuili learn --restart`"),
        ({"head": "{"}, "damaged header"),
        ({"head": "[]"}, "damaged header"),
        ({"head": '{"known": ["a", "b", "c", "d"]}'}, "damaged header"),
        ({"head": '"sureness": [NaN, 0]'}, "damaged header"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, change: dict[str, str], why: str) -> None:
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "walk.safetensors"
    save(learned(), path)
    save_file(load_file(path), path, metadata={"format": FORMAT, "trained_for": "", "head": "{}", **change})
    with pytest.raises(ModelFileError, match=why):
        load(path)


def test_weights_that_are_missing_or_not_finite_are_refused(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "walk.safetensors"
    save(learned(), path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name, value in (
        ("policy.w1", None),
        ("conditioning.w_word", None),
        ("known.0", np.full(4, np.nan, np.float32)),
    ):
        changed = {key: each for key, each in tensors.items() if key != name} | ({} if value is None else {name: value})
        save_file(changed, path, metadata=metadata)
        with pytest.raises(ModelFileError):
            load(path)


@pytest.mark.parametrize("kept", [0, 8, 100, 2000])
def test_a_cut_off_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "walk.safetensors"
    save(learned(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFileError):
        load(path)


def test_the_fingerprint_is_of_the_relations_not_of_the_facts(tiny_base: Path) -> None:
    with Store.open(tiny_base) as store:
        first = fingerprint(Graph(store))
        graph = Graph(store)
        assert fingerprint(graph) == first and len(first) == 64
        graph.relations.pop("has genre")
        assert fingerprint(graph) != first


def test_sureness_is_a_probability_that_rises() -> None:
    found = [Sureness(2.0, -1.0).of(share) for share in (0.0, 0.2, 0.5, 0.9, 1.0)]
    assert found == sorted(found) and 0 < found[0] < 0.01 and 0.99 < found[-1] < 1
    assert Sureness().of(0.3) == pytest.approx(0.3)
