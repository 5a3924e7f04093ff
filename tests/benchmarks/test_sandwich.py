import json

import pytest
import torch

import sandwich
from runner import Options


@pytest.fixture
def curves(tmp_path, monkeypatch):
    """Committed curves of one seed: the sandwich a hundredth above the dense decoder, the window a tenth."""
    monkeypatch.setattr(sandwich, "CURVES", tmp_path)
    for kind, last in (("sandwich", 2.02), ("dense", 2.0), ("window", 2.2)):
        for context, tokens in (("2k", 1000), ("8k", 400)):
            rows = [
                {"run": "x"},
                *({"step": s, "tokens": tokens * s // 2, "held_out_loss": last + 2 - s} for s in (1, 2)),
            ]
            lines = "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 2, "tokens": tokens, "loss": 9.0}])
            (tmp_path / f"{kind}-{context}-s0.jsonl").write_text(lines)
    return {place: found for place in sandwich.places() if (found := sandwich.read_curve(*place)) is not None}


def options(tmp_path, **changes):
    return Options(**{"out": tmp_path / "x.json", "data": None, "test": None, "smoke": True, "only": "", **changes})


def test_every_run_comes_after_the_one_it_continues():
    places = list(sandwich.places())
    assert len(places) == len(set(places)) == 14
    for kind, context, seed in places:
        before = {"8k": (kind, "2k", seed), "2k": ("dense", "512", seed)}.get(context)
        assert before is None or places.index(before) < places.index((kind, context, seed))


def test_all_kinds_are_one_decoder_on_the_first_rows():
    ids = torch.randint(0, 4096, (1, 512), generator=torch.Generator().manual_seed(0))
    dense = sandwich.fresh("dense").eval()
    for kind in ("sandwich", "window"):
        other = sandwich.fresh(kind).eval()
        missing, unexpected = other.load_state_dict(dense.state_dict(), strict=False)
        assert not unexpected and all(".gate." in name for name in missing)
        with torch.no_grad():
            torch.testing.assert_close(other(ids).logits, dense(ids).logits, rtol=1e-4, atol=1e-4)


def test_losses_are_compared_with_the_dense_decoder_of_the_same_seed(curves):
    found = {result.name: result for result in sandwich.losses(curves, "2k")}
    assert found["sandwich.2k.loss_vs_dense"].value == pytest.approx(0.01)
    assert found["sandwich.2k.loss_vs_dense"].target == 0.012
    assert found["sandwich.2k.window_vs_dense"].value == pytest.approx(0.1)
    assert found["sandwich.2k.dense.loss"].n == 1


def test_a_loss_between_two_evaluations_lies_on_a_line():
    assert sandwich.at([(100, 4.0), (200, 2.0)], 150) == pytest.approx(3.0)
    assert sandwich.at([(100, 4.0), (200, 2.0)], 500) == 2.0


def test_without_curves_nothing_is_claimed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sandwich, "CURVES", tmp_path)
    assert list(sandwich.measure(options(tmp_path, only="sandwich.2k"))) == []
    assert "no curve sandwich-2k-s0.jsonl" in capsys.readouterr().err


def test_prose_is_split_without_overlap(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "wikitext2_valid.txt").write_text("".join(f"line {n}\n" for n in range(50)))
    train, held_out = sandwich.split_prose(tmp_path, tmp_path / "runs")
    assert train.read_text().count("\n") == 45 and held_out.read_text().startswith("line 45\n")
    assert sandwich.split_prose(tmp_path / "nowhere", tmp_path) is None


def test_a_curve_is_kept_with_what_it_was_made_by(tmp_path, monkeypatch):
    monkeypatch.setattr(sandwich, "CURVES", tmp_path / "curves")
    out = tmp_path / "sandwich-2k-s0"
    out.mkdir()
    rows = [{"step": 1, "tokens": 5, "loss": 3.0, "rate": 0.1}, {"step": 1, "tokens": 5, "held_out_loss": 2.5}]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sandwich.keep_curve(out, {"prose": False})
    first, *rest = (
        json.loads(line) for line in (tmp_path / "curves" / "sandwich-2k-s0.jsonl").read_text().splitlines()
    )
    assert first["tokens"] == 5 and first["prose"] is False
    assert rest == [{"step": 1, "tokens": 5, "loss": 3.0}, {"step": 1, "tokens": 5, "held_out_loss": 2.5}]
    assert sandwich.read_curve("sandwich", "2k", 0) == [(5, 2.5)]


def test_a_curve_tells_its_recipe_and_no_place_of_a_file():
    """The committed curves were made by the recipe as it is; whoever changes that makes new ones (--retrain)."""
    from sandwich_10m import make

    for kind, context, seed in sandwich.places():
        header = json.loads((sandwich.CURVES / f"{kind}-{context}-s{seed}.jsonl").read_text().splitlines()[0])
        assert header["recipe"] == json.loads(json.dumps(sandwich.told(make(kind, context, seed))))
        assert (
            header["tokens"]
            == header["recipe"]["steps"] * header["recipe"]["data"]["length"] * header["recipe"]["batch"]
        )
    assert header["recipe"]["model"]["start"] == "window-2k-s1" and "/" not in json.dumps(header)


def test_what_is_trained_is_not_trained_again_and_that_is_told(tmp_path, capsys):
    (tmp_path / "dense-2k-s0").mkdir()
    (tmp_path / "dense-2k-s0" / "done").touch()
    sandwich.train_one("dense", "2k", 0, tmp_path, None)
    assert "dense-2k-s0 is trained already; remove" in capsys.readouterr().err


def test_processes_side_by_side_share_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("TUILI_HOME", str(tmp_path))
    trained = []

    def train_one(kind, context, seed, runs, prose):
        trained.append((kind, context, seed))
        if len(trained) == 1:  # a second process starts while this one trains its first decoder
            with pytest.raises(SystemExit, match=f"still train seed {seed};"):
                sandwich.train_all(options(tmp_path))

    monkeypatch.setattr(sandwich, "train_one", train_one)
    sandwich.train_all(options(tmp_path))
    assert set(trained) == set(sandwich.places())
    assert trained.count(trained[0]) == 1, "the second process left it alone"
