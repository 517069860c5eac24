"""The processes that tests fork are as much their own as those that are started."""

import warm

SAYS = "import random, numpy, torch; print(random.random(), numpy.random.random(), torch.rand(()).item())"


def test_chance_is_not_shared():
    first, second = (warm.run(["-c", SAYS]).stdout.split() for _ in range(2))
    assert len(first) == 3
    assert not set(first) & set(second)


def test_threads_are_those_of_the_environment():
    for threads in ("1", "2"):
        said = warm.run(["-c", "import torch; print(torch.get_num_threads())"], env={"OMP_NUM_THREADS": threads}).stdout
        assert said.split() == [threads]
