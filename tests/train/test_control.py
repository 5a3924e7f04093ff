from ranks import run_ranks

from tuili.train.control import Control


def exchange():
    control = Control()
    rank, size = control.rank, control.size
    return rank, size, control.gather({"rank": rank}), control.share(f"from {rank}"), control.least(5 - rank)


def test_every_process_hears_the_same():
    heard = run_ranks(3, exchange)
    assert [each[0] for each in heard] == [0, 1, 2]
    assert {str(each[1:]) for each in heard} == {str((3, [{"rank": 0}, {"rank": 1}, {"rank": 2}], "from 0", 3))}


def test_one_process_hears_itself():
    assert exchange() == (0, 1, [{"rank": 0}], "from 0", 5)
