import pytest
import torch
from ranks import run_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, zeros

from tuili.errors import ModelFileError
from tuili.train.control import Control
from tuili.train.shards import Files, read, stage, whole, write

SIZES = {"odd": (5, 3), "one": (1, 7), "vector": (4,), "number": (), "empty": (0, 3)}


def values():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(size, generator=generator) for name, size in SIZES.items()}


def save(folder):
    """Save matrices that are cut along their rows, vectors that each process has, and a tensor that one alone has."""
    control = Control()
    mesh = init_device_mesh("cpu", (control.size,))
    state = {name: cut(mesh, value) for name, value in values().items()}
    state |= {"half": values()["odd"].bfloat16()} if control.rank == 1 else {}
    staged = stage(state, control)
    write(folder, staged)
    control.gather(None)
    other = {name: zeros(value.shape, device_mesh=mesh, placements=[along(value)]) for name, value in values().items()}
    read(folder, staged.table, other)
    for name, value in values().items():
        assert torch.equal(other[name].full_tensor(), value), name
    return staged.table


def cut(mesh, value):
    return distribute_tensor(value, mesh, [Shard(0) if value.ndim == 2 else Replicate()])


def along(value):
    """Another cut than the one it was saved with."""
    return Shard(value.ndim - 1) if value.ndim else Replicate()


@pytest.mark.parametrize("size", [2, 3])
def test_parts_are_put_together_by_any_cut(tmp_path, size):
    tables = run_ranks(size, save, tmp_path)
    assert all(table == tables[0] for table in tables)
    with Files(tmp_path) as files:
        for name, value in values().items():
            assert torch.equal(whole(files, tables[0], name), value), name
        assert torch.equal(whole(files, tables[0], "half"), values()["odd"].bfloat16())
    assert len(tables[0]["vector"]["chunks"]) == 1, "what all have is written once"


def test_one_process_needs_no_group_and_changes_nothing_later(tmp_path):
    state = values()
    staged = stage(state, Control())
    wanted = {name: value.clone() for name, value in state.items()}
    for value in state.values():
        value.fill_(float("nan"))
    write(tmp_path, staged)
    read(tmp_path, staged.table, state)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_damage_is_told(tmp_path):
    staged = stage(values(), Control())
    write(tmp_path, staged)
    for changed, message in [
        ({"dtype": "load"}, "'load' is no dtype"),
        ({"chunks": []}, r"hold 0 numbers of \[5, 3\]"),
        ({"chunks": [{"file": "none.safetensors", "offsets": [0, 0], "sizes": [5, 3]}]}, "can't read"),
        ({"chunks": [{"file": staged.file, "offsets": [9, 9], "sizes": [5, 3]}]}, "lacks 'odd@9,9'"),
    ]:
        table = {**staged.table, "odd": staged.table["odd"] | changed}
        with pytest.raises(ModelFileError, match=message), Files(tmp_path) as files:
            whole(files, table, "odd")
