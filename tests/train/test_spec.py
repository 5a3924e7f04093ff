import math
import re
import subprocess
import sys

import pytest

from tuili.errors import UsageError
from tuili.train.spec import ParallelSpec, TrainingConfig

BAD_SPECS = [
    ({"tp": 0}, "tp must be a whole number, at least 1, not 0"),
    ({"micro_batch": 2.0}, "micro_batch must be a whole number, at least 1, not 2.0"),
    ({"pp": True}, "pp must be a whole number, at least 1, not True"),
    ({"pp": 2, "schedule": "2F2B"}, "there is no schedule '2F2B'; choose one of GPipe, 1F1B, Interleaved1F1B"),
    ({"schedule": "GPipe"}, "schedule is 'GPipe', which has no effect with pp=1"),
    ({"virtual": 2}, "virtual is 2, which has no effect with pp=1"),
    ({"micro_batches": 4}, "micro_batches is 4, which has no effect with pp=1"),
    ({"layers_per_stage": (4,)}, "layers_per_stage is (4,), which has no effect with pp=1"),
    ({"pp": 2, "virtual": 2}, "with 1F1B a process holds 1 stages, not 2"),
    ({"pp": 2, "schedule": "Interleaved1F1B"}, "with Interleaved1F1B a process holds 2 or more stages, not 1"),
    ({"pp": 2, "schedule": "ZBVZeroBubble", "virtual": 3}, "with ZBVZeroBubble a process holds 2 stages, not 3"),
    ({"pp": 4, "micro_batches": 2}, "1F1B over pp=4 needs micro_batches to be at least 4, not 2"),
    (
        {"pp": 2, "schedule": "Interleaved1F1B", "virtual": 2, "micro_batches": 5},
        "Interleaved1F1B over pp=2 needs micro_batches to be a multiple of 2 and at least 2, not 5",
    ),
    ({"pp": 2, "layers_per_stage": (1, 2, 1)}, "layers_per_stage has 3 numbers, there are 2 stages"),
    ({"pp": 2, "layers_per_stage": (4, 0)}, "each of layers_per_stage must be a whole number, at least 1, not 0"),
]


@pytest.mark.parametrize(("values", "message"), BAD_SPECS)
def test_layouts_that_make_no_sense_are_refused(values, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        ParallelSpec(**values)


def test_a_layout_counts_its_processes_stages_and_rows():
    spec = ParallelSpec(pp=2, dp_replicate=3, dp_shard=4, tp=5, virtual=2, schedule="ZBVZeroBubble", micro_batch=6)
    assert (spec.world_size, spec.dp_size, spec.num_stages, spec.passes, spec.row_unit) == (120, 12, 4, 4, 24)
    assert ParallelSpec(micro_batch=3).row_unit == 3
    assert ParallelSpec(pp=2, micro_batches=8, micro_batch=3).row_unit == 24
    assert ParallelSpec(pp=3, schedule="GPipe", micro_batches=1).passes == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be a finite number over 0, not 0.0"),
        ({"clip_norm": math.inf}, "clip_norm must be a finite number over 0, not inf"),
        ({"epsilon": math.nan}, "epsilon must be a finite number over 0, not nan"),
        ({"learning_rate": None}, "learning_rate must be a finite number over 0, not None"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number, at least 0, not -0.1"),
        ({"beta2": 1.0}, "beta2 must be in 0 .. 1, 1 excluded, not 1.0"),
        ({"precision": "fp8"}, "there is no precision 'fp8'; choose one of float32, bfloat16, float16"),
    ],
)
def test_training_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        TrainingConfig(**values)


def test_a_recipe_starts_without_torch():
    code = "import sys, tuili.train.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
