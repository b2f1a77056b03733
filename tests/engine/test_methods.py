"""Every method of the catalogue runs in the packed engine, and answers as torch does."""

import pytest

from tests.fixtures.engines import assert_alike, sets
from tests.fixtures.runs_of_methods import ON_TINY, ON_WIDE


@pytest.mark.skipif(not sets(), reason="there is no C compiler")
@pytest.mark.parametrize("method", sorted([*ON_TINY, *ON_WIDE]))
def test_a_method_runs_in_the_engine(method, run_method, sst2):
    path, split = run_method(method)[1] / "last.safetensors", sst2.splits["validation"]
    assert_alike(path, (split.ids, split.ends, split.first))
