"""Loads the project as the package `lathe` for every test, and validates the GLB files that a session wrote."""

import lathe_root  # noqa: F401
import pytest
from shared_server import started
from written_glbs import InvalidFiles, check_written_glbs

VALIDATED = pytest.StashKey[str]()


@pytest.fixture(scope="session", autouse=True)
def valid_glbs(request, tmp_path_factory):
    """After the last test: no GLB that Lathe wrote, in a test's own folder or a server's, has an error."""
    yield
    folders = [tmp_path_factory.getbasetemp(), *(server.base / kind for server in started for kind in ("output", "temp"))]
    try:
        request.config.stash[VALIDATED] = check_written_glbs(folders)
    except InvalidFiles as error:
        pytest.fail(str(error), pytrace=False)


def pytest_terminal_summary(terminalreporter):
    if said := terminalreporter.config.stash.get(VALIDATED, ""):
        terminalreporter.write_line(said)
