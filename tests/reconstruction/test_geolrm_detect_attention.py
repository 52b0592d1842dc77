"""`auto` on trained networks: what it names is right, and what it cannot tell it leaves undecided.

`geolrm_tiny_*` were trained by the recipe of both stages, `geolrm_fitted_*` on the calibration object alone (tests/data/README.md).
"""

from dataclasses import replace
from pathlib import Path

import pytest
from lathe.pipelines.reconstruction.geolrm import detect_attention
from lathe.pipelines.reconstruction.geolrm.attention_memory import CANDIDATES
from lathe.pipelines.reconstruction.geolrm.detect_attention import choose_proposal, choose_reconstruction, own_cells
from lathe.pipelines.reconstruction.geolrm.stages import NetworkForm
from lathe.pipelines.weights.geolrm import load_geolrm

DATA = Path(__file__).parents[1] / "data"


def load(kind, form):
    return load_geolrm(DATA / f"geolrm_{kind}_{form}.safetensors")


def verdicts(model):
    """Of the proposal network, and then of the reconstruction network on its cells, as Load GeoLRM takes them."""
    proposal = choose_proposal(model)
    model = replace(model, propose_as=proposal.chosen)
    return proposal, choose_reconstruction(model, own_cells(model))


@pytest.mark.parametrize("form", ["tokens", "heads"])
def test_networks_that_know_the_calibration_object_by_heart_are_named(form):
    fitted = load("fitted", form)
    for verdict in verdicts(replace(load("tiny", form), reconstruction=fitted.reconstruction)):
        assert verdict.decided and verdict.lasting and verdict.chosen == NetworkForm(form, 0.5), verdict.why


def test_without_a_proposal_network_the_lead_must_be_wider(monkeypatch):
    """On the visual hull, which they were not fitted on, the one is named still, 3.2 dB ahead, and the other, 0.8 dB ahead, no more."""
    tokens, heads = load("fitted", "tokens"), load("fitted", "heads")
    found = [choose_reconstruction(model) for model in (tokens, heads)]
    assert [(verdict.chosen.form, verdict.decided) for verdict in found] == [("tokens", True), ("tokens", False)]
    assert 3 < max(found[0].scores[:2]) - found[0].scores[2] < 4
    monkeypatch.setattr(detect_attention, "LEAD_ON_HULL", 4.0)
    assert not choose_reconstruction(tokens).decided


def test_networks_trained_by_the_recipe_are_named_rightly_or_not_at_all():
    for form in ("tokens", "heads"):
        proposal, reconstruction = verdicts(load("tiny", form))
        assert proposal.decided and proposal.chosen == NetworkForm(form, 0.5) and proposal.scores[CANDIDATES.index(proposal.chosen)] > 0.9
        # which form a reconstruction network runs in matters where it was trained over tokens; one trained in heads makes no use of it
        assert reconstruction.decided == (form == "tokens") and reconstruction.chosen == CANDIDATES[0]
    assert "tokens and heads differ by only 0." in reconstruction.why and "choose heads as reconstruction form" in reconstruction.why


def test_tokens_stand_where_the_networks_own_cells_are():
    """On the visual hull, where no network was trained to look, a form that is wrong can do better."""
    model = load("tiny", "tokens")
    tokens, _, heads = choose_reconstruction(model, own_cells(model)).scores
    tokens_on_hull, _, heads_on_hull = choose_reconstruction(model).scores
    assert tokens - heads > 1.5 and heads_on_hull - tokens_on_hull > 0.3
    assert not choose_reconstruction(model).decided
    assert own_cells(replace(model, propose_as=NetworkForm("heads"))) is None  # a proposal that is none
