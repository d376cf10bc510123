"""One daemon, in this process, for all tests of devices that leave it as it is."""

from collections.abc import Iterator

import pytest

from tests.api.whole_daemon import whole_daemon
from tests.devices.site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with whole_daemon(tmp_path_factory.mktemp("daemon")) as installed:
        yield Site.of(installed, tmp_path_factory.mktemp("devices"))
