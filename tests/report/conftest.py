"""One browser for all tests of the report, which each of them finds as new."""

import pytest

from tests.fixtures import chromium


@pytest.fixture(scope="session")
def started():
    if chromium.EXECUTABLE is None:
        pytest.skip("there is no Chromium to open the page with")
    found = chromium.Browser()
    yield found
    found.close()


@pytest.fixture
def browser(started):
    started.forget()
    return started
