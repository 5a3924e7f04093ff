import pytest

from tuili.errors import UsageError
from tuili.train.planning.layer_plans import parse_layer_plan
from tuili.train.planning.models import DENSE, Reading


def test_a_plan_is_read():
    plan = parse_layer_plan("dense:2, sparse:3:keep=512:gate=8:sub=16:beam=4 pooled:1:window=256:block=32 window:1")
    assert plan == (
        DENSE,
        DENSE,
        *[Reading(kind="sparse", keys=512, gate_width=8, block=16, beam=4)] * 3,
        Reading(kind="pooled", keys=256, block=32),
        Reading(kind="window", keys=4096),
    )


@pytest.mark.parametrize("text", [
    "", " , ", "dense", "dense:0", "dense:x", "round:3", "sparse:2:keep", "sparse:2:keep=x", "dense:1:keep=3",
    "sparse:1:window=4", "sparse:1:keep=0", "pooled:1:block=0",
])  # fmt: skip
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(UsageError, match=r"give|takes"):
        parse_layer_plan(text)
