import pytest

from tuili.errors import InputError
from tuili.train.planning.models import preset
from tuili.train.planning.uneven import operations, propose


def test_a_slow_device_gets_fewer_layers_and_the_gain_is_that_of_the_slowest_stage():
    found = propose(preset("llama3-8b"), [1, 1, 0.5, 1], 2048)
    assert sum(found.counts) == sum(found.even) == 32
    assert found.counts[2] == min(found.counts) and found.counts[3] < found.counts[0]
    assert max(found.even_times) == pytest.approx(1)
    assert found.gain == pytest.approx(1 / max(found.times)) and found.gain > 1.5


def test_equal_devices_still_make_room_for_the_output_layer():
    found = propose(preset("smollm2-135m"), [1, 1, 1], 2048)
    assert found.counts[-1] < found.counts[0] and found.gain > 1


def test_costs_add_up_to_a_forward_pass():
    model = preset("llama3-8b")
    costs, head = operations(model, 2048)
    assert 3 * (sum(costs) + head) == pytest.approx(model.operations_per_token(2048))


def test_more_stages_than_layers_are_refused():
    with pytest.raises(InputError, match="31 stages"):
        propose(preset("smollm2-135m"), [1.0] * 31, 512)
