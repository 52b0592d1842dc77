"""Confidence, tables and the JSON line of the benchmarks."""

import json

import numpy as np
import pytest
from lathe.bench import common


def test_confidence_of_a_constant_difference_is_a_point():
    interval = common.paired_confidence([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert interval == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_confidence_matches_the_normal_interval_of_many_pairs():
    generator = np.random.default_rng(7)
    difference = generator.normal(0.2, 1.0, 2000)
    interval = common.paired_confidence(difference, np.zeros(2000))
    error = difference.std() / np.sqrt(2000)
    assert interval["low"] == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert interval["high"] == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)
    assert interval == common.paired_confidence(difference, np.zeros(2000))  # seeded


def test_confidence_needs_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        common.paired_confidence([], [])


def test_pairing_is_what_narrows_the_interval():
    """A small gain on every object shows through a large spread between objects."""
    level = np.array([1.0, 5.0, 9.0, 2.0, 7.0, 3.0, 8.0, 4.0])
    gain = np.array([0.1, 0.2, 0.15, 0.1, 0.12, 0.2, 0.18, 0.1])
    interval = common.paired_confidence(level + gain, level)
    assert 0.1 <= interval["low"] < interval["high"] <= 0.2


def test_last_line_is_json_without_nan(capsys):
    common.print_table(["name", "value"], [["a", 0.5], ["longer", None], ["tiny", 2e-6]])
    common.finish({"a": float("nan"), "b": np.float32(0.25), "c": [np.int64(3), float("inf")]})
    lines = capsys.readouterr().out.strip().splitlines()
    assert json.loads(lines[-1]) == {"a": None, "b": 0.25, "c": [3, None]}
    assert lines[0].split() == ["name", "value"] and lines[3].split() == ["longer", "-"] and lines[4].split() == ["tiny", "2e-06"]


def test_machine_line_names_threads_and_date():
    facts = common.machine()
    line = common.machine_line(facts)
    assert f"{facts['threads']} thread(s)" in line and facts["date"] in line and facts["cpu"] in line
