import pytest

from tuili.errors import InputError, UsageError
from tuili.train.planning.devices import Cluster, Group, Node, device, devices, one_kind

A100 = device("a100-80")
NODE = Node(A100, 8)


def test_rings_inside_a_node_use_fast_links_and_others_the_slow_ones_of_their_members():
    fast, slow = A100.fast_link * A100.fast, A100.slow_link * A100.slow
    assert NODE.link(1, 8)[0] == fast
    assert NODE.link(8, 4)[0] == slow
    assert NODE.link(4, 4)[0] == pytest.approx(2 * slow)
    assert NODE.link(1, 16)[0] == pytest.approx(8 * slow)
    assert NODE.link(1, 16, rails=False)[0] == slow
    assert NODE.link(2, 3)[0] == pytest.approx(3 * slow), "six of eight neighbours: some rings lie on two nodes"


def test_a_gather_takes_the_bytes_of_the_others():
    seconds = NODE.gather_time(8e9, 1, 8)
    assert seconds == pytest.approx(7e9 / (A100.fast_link * A100.fast) + 6 * A100.fast_latency_s)
    assert NODE.gather_time(8e9, 1, 1) == 0


def test_every_kind_has_shares_that_can_be():
    for kind in devices().values():
        shares = (kind.matmul, kind.memory, kind.fast, kind.slow, kind.flash)
        assert all(0 < share <= 1 for share in shares), kind.name
        assert (kind.peak_fp8 > 0) == (kind.matmul_fp8 > 0)
        assert kind.checked


def test_a_family_shares_what_was_fitted():
    assert device("a100-40").matmul == device("a100-80").matmul
    assert device("h100-80").matmul_fp8 == device("h100-96").matmul_fp8


def test_stages_of_a_mixed_cluster_have_one_kind_each():
    h100 = Node(device("h100-80"), 8)
    cluster = Cluster((Group(NODE, 8), Group(h100, 24)))
    assert cluster.nodes_of_stages(4) == [NODE, h100, h100, h100]
    assert cluster.nodes_of_stages(2) is None
    assert cluster.peak == 8 * A100.peak + 24 * h100.device.peak


@pytest.mark.parametrize("groups", [(), (Group(NODE, 0),), (Group(NODE, 12),), (Group(Node(A100, 0), 4),)])
def test_clusters_that_cannot_be_are_refused(groups):
    with pytest.raises(InputError, match="give"):
        Cluster(groups)


def test_a_cluster_smaller_than_a_node_is_one_node():
    assert one_kind(A100, 4).per_node == 4
    assert one_kind(A100, 64).per_node == 8


def test_an_unknown_device_is_refused():
    with pytest.raises(UsageError, match="a100-80"):
        device("v100")
