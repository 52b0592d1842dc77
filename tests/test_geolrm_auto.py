"""`auto` on trained networks: a tiny GeoLRM taught in each form (training/geolrm, fit_calibration.py) is named rightly, by far."""

import re
from pathlib import Path

import pytest
from lathe.pipelines.geolrm import NetworkForm
from lathe.pipelines.geolrm_form import choose_proposal, choose_reconstruction
from lathe.pipelines.weights.geolrm import load_geolrm

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("form", ["tokens", "heads"])
def test_the_form_of_trained_networks_is_found(form):
    model = load_geolrm(DATA / f"geolrm_tiny_{form}.safetensors")
    proposal, reconstruction = choose_proposal(model), choose_reconstruction(model)
    for verdict in (proposal, reconstruction):
        assert verdict.decided and verdict.chosen == NetworkForm(form, 0.5)
    scores = dict(re.findall(r"(tokens, scale 0\.5|heads): ([\d.]+) dB", reconstruction.why))
    right, wrong = ("heads", "tokens, scale 0.5") if form == "heads" else ("tokens, scale 0.5", "heads")
    assert float(scores[right]) > float(scores[wrong]) + 5
