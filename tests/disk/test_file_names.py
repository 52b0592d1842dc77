"""Names of files that every system can write."""

import pytest
from lathe.pipelines.disk.file_names import check_file_name


@pytest.mark.parametrize(
    "name", ["lathe/mesh", "a.b/c_d-1", "椅子/стул", "\U0001fa91", "console", "com", "com10", "aux_map", "../up", "a b/c", "n" * 200]
)
def test_names_that_every_system_takes(name):
    check_file_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\0b", "not every system"),
        ("a\nb", "not every system"),
        ("a\ud800b", "not every system"),
        ("lathe/a:b", "':'"),
        ("a*b", "not every system"),
        ("CON", "Windows keeps"),
        ("lathe/nul.mesh", "Windows keeps"),
        ("Aux\\mesh", "Windows keeps"),
        ("lpt9/mesh", "Windows keeps"),
        ("COM\u00b9", "Windows keeps"),
        ("lathe./mesh", "ends with a dot or a space"),
        ("lathe /mesh", "ends with a dot or a space"),
        ("n" * 201, "201 bytes"),
        ("\u6f22" * 100, "300 bytes"),
        ("a/" * 600, "1200 bytes"),
    ],
)
def test_names_that_some_system_does_not_take(name, says):
    with pytest.raises(ValueError, match=says):
        check_file_name(name)
