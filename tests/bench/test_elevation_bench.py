"""The elevation benchmark: its command and its figures on one object at its smallest."""

import json

import numpy as np
import pytest
from lathe.bench import elevation, scenes


def test_elevations_depend_on_the_object_alone():
    drawn = elevation.drawn_elevations("scopia/vase3", 50)
    assert drawn == elevation.drawn_elevations("scopia/vase3", 50) != elevation.drawn_elevations("scopia/vase1", 50)
    for name, (low, high) in elevation.RANGES.items():
        assert low <= min(drawn[name]) < low + 15 and high - 15 < max(drawn[name]) <= high


def test_figures_of_known_errors():
    scores = elevation.figures(np.array([[1.0, 2.0], [3.0, 10.0]]), 0.5)
    assert scores == {"median": 2.5, "mean": 4.0, "p90": pytest.approx(7.9), "under_5": 0.75, "cpu_seconds": 0.5}


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(scenes, "chosen_keys", lambda arguments: ["blendswap-cc-0/chicken"])
    monkeypatch.setattr("sys.argv", ["elevation.py", "--orbits", "1", "--size", "48", "--objects", str(elevation.common.BENCH_OBJECTS)])
    status = elevation.main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert status == 0 and result["claims"][0]["holds"] and result["objects"] == 1 and result["orbits"] == 2
    for name in elevation.RANGES:
        assert set(result[name]) >= {"silhouettes", "learned", "auto", "constant", "gain_over_constant", "gain_of_auto", "unsure"}
        assert result[name]["silhouettes"]["median"] < 3
        gain = result[name]["gain_over_constant"]["silhouettes"]
        assert gain["low"] <= gain["mean"] <= gain["high"]
