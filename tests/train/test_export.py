import shutil
from dataclasses import replace

import pytest
import torch
from runs import run, small_recipe
from transformers import AutoModelForCausalLM

from tuili.errors import ModelFileError, StoreError
from tuili.train import export as exporting
from tuili.train.checkpoint import checkpoints, open_checkpoint
from tuili.train.export import export
from tuili.train.tokens import load_tokenizer


@pytest.fixture
def trained(texts, tmp_path):
    """The newest checkpoint of a run whose head is the embedding, and its tokenizer."""
    recipe = small_recipe(texts, tmp_path / "run", "steps=2")
    tied = {**recipe.model.settings, "tie_word_embeddings": True}
    run(replace(recipe, model=replace(recipe.model, settings=tied)))
    return open_checkpoint(checkpoints(recipe.out / "checkpoints")[0]), load_tokenizer(recipe.out / "data")


def weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model.state_dict()


def test_large_models_are_cut_into_files(trained, tmp_path, monkeypatch):
    checkpoint, tokenizer = trained
    export(checkpoint, tokenizer, tmp_path / "one")
    monkeypatch.setattr(exporting, "MAX_FILE_BYTES", 3000)
    export(checkpoint, tokenizer, tmp_path / "many")
    names = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(names) > 3 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)


def test_a_folder_that_is_there_is_replaced_as_a_whole(trained, tmp_path, monkeypatch):
    checkpoint, tokenizer = trained
    out = tmp_path / "model"
    export(checkpoint, tokenizer, out)
    (out / "old").write_text("x")

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "save_file", full)
        with pytest.raises(StoreError, match="No space left"):
            export(checkpoint, tokenizer, out)
    assert (out / "old").exists() and (out / "model.safetensors").exists()
    export(checkpoint, tokenizer, out)
    assert not (out / "old").exists() and not list(tmp_path.glob(".model*"))


def test_damaged_checkpoints_are_refused(trained, tmp_path):
    checkpoint, tokenizer = trained
    table = {name: {**entry, "chunks": list(entry["chunks"])} for name, entry in checkpoint.table.items()}
    table["model/model.norm.weight"]["chunks"] = []
    with pytest.raises(ModelFileError, match="hold 0 numbers"):
        export(replace(checkpoint, table=table), tokenizer, tmp_path / "model")
    shutil.move(checkpoint.folder / "rank-00000.safetensors", tmp_path / "gone")
    with pytest.raises(ModelFileError, match="can't read"):
        export(checkpoint, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()
