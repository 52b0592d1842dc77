"""The table of a PLY's vertices: what a header claims is held against the file before memory is taken, and reading can be cancelled."""

import gzip
import time

import numpy as np
import pytest
from lathe.pipelines.formats import ply_header, ply_rows, splats

HEADER = "ply\nformat {order} 1.0\ncomment of the test\n{elements}end_header\n"
VERTEX = "element vertex {count}\nproperty float x\nproperty uchar c\nproperty double y\n"
KIND = [("x", "f4"), ("c", "u1"), ("y", "f8")]


def table(count: int = 5) -> np.ndarray:
    rows = np.zeros(count, KIND)
    rows["x"], rows["c"], rows["y"] = np.arange(count) / 4, np.arange(count), -np.arange(count) * 1e6
    return rows


def write(path, order: str, body: bytes, before: str = "", behind: str = "", count: int = 5):
    path.write_bytes(HEADER.format(order=order, elements=before + VERTEX.format(count=count) + behind).encode() + body)
    return path


def body_of(order: str) -> bytes:
    if order == "ascii":
        return "".join(f"{x} {c} {y}\n" for x, c, y in table().tolist()).encode()
    return table().astype(np.dtype(KIND).newbyteorder("<" if "little" in order else ">")).tobytes()


@pytest.mark.parametrize("order", ply_header.ORDERS)
def test_rows_behind_other_elements_and_before_claims(tmp_path, order):
    """What stands behind is not looked at, however much it claims."""
    first = {"ascii": b"1 2\n3 4\n"}.get(order, bytes(2 * 8))
    before = "element first 2\nproperty float a\nproperty float b\n"
    behind = "element edge 1000000000000\nproperty list uchar int v\n"
    path = write(tmp_path / "a.ply", order, first + body_of(order), before, behind)
    rows = ply_rows.read_rows(path, ply_rows.open_header(path))
    assert rows.dtype == np.dtype(KIND) and np.array_equal(rows, table())


@pytest.mark.parametrize("order", ply_header.ORDERS)
@pytest.mark.parametrize("count", [6, 10**9, 10**17])
def test_claims_that_the_file_does_not_hold(tmp_path, order, count):
    path, start = write(tmp_path / "a.ply", order, body_of(order), count=count), time.monotonic()
    with pytest.raises(ValueError, match=r"a\.ply is cut short"):
        ply_rows.read_rows(path, ply_rows.open_header(path))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("body", [b"1 2 x\n" * 5, b"1 2\n" * 5, b"1 2 3 4\n" * 5])
def test_text_that_is_no_table(tmp_path, body):
    path = write(tmp_path / "a.ply", "ascii", body)
    with pytest.raises(ValueError, match="no row of 3 numbers"):
        ply_rows.read_rows(path, ply_rows.open_header(path))


@pytest.mark.parametrize(
    "line", ["element vertex -5", "element vertex", "element vertex 1e9", "property rgb a", "property float x", "property"]
)
def test_headers_that_say_nothing(tmp_path, line):
    path = write(tmp_path / "a.ply", "ascii", b"", behind=line + "\n")
    with pytest.raises(ValueError, match=r"a\.ply cannot be read as a PLY: its header"):
        ply_rows.open_header(path)


def test_reading_is_cancelled_between_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(ply_rows, "BLOCK", 2)
    path, seen = write(tmp_path / "a.ply", "binary_little_endian", body_of("binary_little_endian")), []

    def tick(step, total, preview=None):
        seen.append(step)
        if step:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        ply_rows.read_rows(path, ply_rows.open_header(path), tick=tick)
    assert seen == [0, 2]


def test_an_spz_of_a_few_bytes_that_claims_millions(tmp_path):
    names = ("magic", "version", "count"), ("degree", "bits", "flags", "zero")
    kind = [(name, "<u4") for name in names[0]] + [(name, "u1") for name in names[1]]
    head = np.array([(0x5053474E, 3, 10_000_000, 3, 12, 0, 0)], kind).tobytes()
    (tmp_path / "bomb.spz").write_bytes(gzip.compress(head + bytes(1 << 20)))
    with pytest.raises(ValueError, match=r"bomb\.spz is no \.spz of a real scene"):
        splats.load_splats(tmp_path / "bomb.spz")
