"""One browser for all tests of the report."""

import pytest

from tests.fixtures import chromium


@pytest.fixture(scope="session")
def browser():
    if chromium.EXECUTABLE is None:
        pytest.skip("there is no Chromium to open the page with")
    found = chromium.Browser()
    yield found
    found.close()
