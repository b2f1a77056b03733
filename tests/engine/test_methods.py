"""Every method of the catalogue runs in the packed engine and answers as torch does, or is refused by name."""

import pytest

from methods import engine
from tests.fixtures.engines import assert_alike, sets
from tests.fixtures.runs_of_methods import ON_TINY, ON_WIDE

REFUSED = {  # what the engine says of a method that it cannot compute, by the method's name
    "xtc_1bit_official": "cannot compute the edit 'xtc.levels'",
    "moebert": "edit 'moebert.experts'",
    "moebert_balanced": "edit 'moebert.experts'",
    "q8bert": "the option '(outputs|head)' of the edit 'quantize'",
    "bibert_1bit": "the option 'probs' of the edit 'quantize'",
    **dict.fromkeys(("bit_1bit_a4", "bit_1bit_a2", "bit_1bit_direct"), "own_inputs"),
    "bit_1bit": "requantize_activations",
}


@pytest.mark.skipif(not sets(), reason="there is no C compiler")
@pytest.mark.parametrize("method", sorted([*ON_TINY, *ON_WIDE]))
def test_a_method_runs_in_the_engine_or_is_refused_by_name(method, run_method, sst2):
    path, split = run_method(method)[1] / "last.safetensors", sst2.splits["validation"]
    if method in REFUSED:
        with pytest.raises(engine.Unsupported, match=REFUSED[method]):
            engine.open_session(path)
    else:
        assert_alike(path, (split.ids, split.ends, split.first))
