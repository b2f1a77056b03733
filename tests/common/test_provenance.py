"""The machine of a measurement, named without torch."""

import mmap

from methods.common import provenance
from tests.fixtures.copies import modules_after


def test_the_device_is_named_without_torch():
    assert "torch" not in modules_after("from methods.common import provenance; assert provenance.device()['platform']")
    found = provenance.device()
    assert found.items() <= provenance.machine().items()
    assert found["cores"] >= 1 and set(found["flags"]) <= set(provenance.TOLD_FLAGS)


def test_memory_rises_with_what_is_held():
    before = provenance.resident_bytes()
    if before is not None:
        with mmap.mmap(-1, 2**26) as held:  # pages of its own: an allocator may hand out some that already lie in memory
            held.write(b"x" * 2**26)
            assert provenance.resident_bytes() - before > 2**25
