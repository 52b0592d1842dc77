"""GeoLRM's nodes as ComfyUI runs them: under inference mode, with tensors from sockets and files in the model folder."""

import json
import logging
import types

import folder_paths
import pytest
import torch
from data.tiny_geolrm import tiny_model, tiny_state
from lathe.nodes import geolrm
from lathe.nodes.core import folders, memory, progress
from lathe.nodes.core.schema import VOXEL
from lathe.nodes.core.splat import from_core_splat
from lathe.nodes.core.voxel import to_core_voxel
from lathe.nodes.geolrm import LatheLoadGeoLRM, LatheProposeVoxels, LatheReconstructSplats
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.reconstruction.geolrm import attention_memory, calibration, detect_attention, occupancy_score
from lathe.pipelines.reconstruction.geolrm import stages as stage
from lathe.pipelines.reconstruction.geolrm.stages import NetworkForm
from lathe.pipelines.weights import geolrm as files

CAMERAS = orbit_cameras(3, elevation=20)
CHOICE = {"threshold": 0.5, "tokens": 64, "seed": 0, "compatible": False}
LOAD = {"proposal_form": "auto", "reconstruction_form": "auto", "precision": "auto", "download": False}


@pytest.fixture(autouse=True)
def running_nodes(monkeypatch, tmp_path):
    folders.register_model_folder()
    monkeypatch.setattr(folders, "model_folders", lambda: [tmp_path])
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    for node in geolrm.NODES:
        monkeypatch.setattr(node, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)


@pytest.fixture()
def own_file(tmp_path):
    files.save_geolrm(tiny_model(name="own"), tmp_path / "own.safetensors", dtype=torch.float32)
    return "own.safetensors"


@pytest.fixture()
def published_file(tmp_path, monkeypatch):
    """A flat pickle that says nothing of its forms; heads and grid are taken as published."""
    from data.tiny_geolrm import PROPOSAL, RECONSTRUCTION

    monkeypatch.setattr(files, "PROPOSAL", PROPOSAL)
    monkeypatch.setattr(files, "RECONSTRUCTION", RECONSTRUCTION)
    monkeypatch.setattr(files, "VIT_HEAD", 16)
    torch.save(tiny_state(), tmp_path / "published.ckpt")
    return "published.ckpt"


def load(name, **changes):
    with torch.inference_mode():
        return LatheLoadGeoLRM.execute(model=name, **{**LOAD, **changes}).args


def pictures(count=3, size=40):
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    mask = (axis[:, None] ** 2 + axis**2 < 0.3).float().expand(count, -1, -1).clone()
    return torch.where(mask[..., None] > 0, torch.tensor([1.0, 0, 0]), torch.ones(3)), mask


def run(node, **given):
    with torch.inference_mode():
        tensors = {key: value.clone() for key, value in given.items() if isinstance(value, torch.Tensor)}
        out = node.execute(**{**given, **{key: value.clone() for key, value in tensors.items()}})
        assert all(torch.equal(given[key], value) for key, value in tensors.items())
    return out.args


def propose(model, images, masks=None, cameras=CAMERAS, threshold=0.5):
    return run(LatheProposeVoxels, geolrm=model, images=images, cameras=cameras, threshold=threshold, masks=masks)


def reconstruct(model, voxel, images, masks=None, cameras=CAMERAS, **changes):
    (splat,) = run(LatheReconstructSplats, geolrm=model, voxel=voxel, images=images, cameras=cameras, masks=masks, **{**CHOICE, **changes})
    return from_core_splat(splat)


def test_a_batch_goes_from_views_through_voxels_to_splats(own_file):
    model, report = load(own_file)
    assert report.splitlines() == [
        "own: proposal and reconstruction network, views of 112 pixels", "proposal: tokens, scale 0.5 (the file says so)",
        "reconstruction: tokens, scale 0.5 (the file says so)",
    ]  # fmt: skip
    images, masks = (torch.cat([part, part.flip(1)]) for part in pictures())
    voxel, preview = propose(model, images, masks)
    assert voxel.data.shape == (2, 16, 16, 16) and preview.shape == (2, 256, 768, 3)
    assert 0 <= float(voxel.data.min()) and float(voxel.data.max()) <= 1
    assert voxel.lathe_extents == pytest.approx([4 / 1.5 * 0.5 * 16 / 15] * 2)
    both = reconstruct(model, voxel, images, masks)
    assert len(both) == 2 and all(0 < len(splats) <= 64 * 4 for splats in both)
    one = to_core_voxel(voxel.data[1:], voxel.lathe_extents[1:])
    alone = reconstruct(model, one, images[3:], masks[3:])[0]
    assert torch.equal(alone.positions, both[1].positions)


def test_the_splats_are_shown_from_the_first_camera(own_file, monkeypatch):
    ticks = []
    monkeypatch.setattr(progress, "tick_for", lambda node: lambda step, total, preview=None: ticks.append(preview))
    model, _ = load(own_file)
    images, masks = pictures()
    reconstruct(model, propose(model, images, masks)[0], images, masks)
    assert ticks[-1].shape == (256, 256, 3) and float(ticks[-1].std()) > 0


def test_an_alpha_channel_serves_as_masks(own_file):
    model, _ = load(own_file)
    images, masks = pictures()
    with_alpha = torch.cat([images, masks[..., None]], -1)
    assert torch.equal(propose(model, with_alpha)[0].data, propose(model, images, masks)[0].data)


def test_reconstruction_takes_the_proposed_cells_exactly(own_file, monkeypatch):
    model, _ = load(own_file)
    images, masks = pictures()
    voxel, _ = propose(model, images, masks)
    given = []
    monkeypatch.setattr(stage, "reconstruct", lambda model, occupancy, *rest, **kw: given.append(occupancy) or [geolrm_splats()])
    reconstruct(model, voxel, images, masks)
    assert torch.equal(given[0], voxel.data)


def geolrm_splats():
    from lathe.pipelines.splats.start import start_at_centre

    return start_at_centre(5, 0)


def test_grids_of_other_nodes_are_brought_onto_the_networks(own_file):
    model, _ = load(own_file)
    images, masks = pictures()
    data = torch.zeros(1, 32, 32, 32)
    data[:, :, :, 20:] = 0.9  # the half of the cube towards +X
    splats = reconstruct(model, types.SimpleNamespace(data=data), images, masks, tokens=4096)[0]
    inner = splats.positions[:, 0]
    # tokens stand at 0.25 and beyond; Gaussians lie up to 0.2 of the network's units away, to one side
    assert float(inner.min()) > 0.2 and float(inner.max()) < 1.1 + 0.2 * 4 / 1.5
    with pytest.raises(ValueError, match=r"This VOXEL has the shape \(7, 4\)"):
        reconstruct(model, types.SimpleNamespace(data=torch.zeros(7, 4)), images)
    with pytest.raises(ValueError, match="A VOXEL is expected, not a str"):
        reconstruct(model, "voxel", images)
    with pytest.raises(ValueError, match="1 assets, but the VOXEL holds 2"):
        reconstruct(model, types.SimpleNamespace(data=torch.ones(2, 16, 16, 16)), images)
    with pytest.raises(ValueError, match="NaN"):
        reconstruct(model, types.SimpleNamespace(data=torch.full((1, 16, 16, 16), float("nan"))), images)


def test_a_fit_starts_where_the_proposed_cells_are():
    from lathe.nodes.splats import starts_in
    from lathe.pipelines.splats.fit_settings import load_fit_preset

    data = torch.zeros(1, 16, 16, 16)
    data[0, 3, 5, 9] = 0.9
    (start,) = starts_in(to_core_voxel(data, [1.4]), 1, load_fit_preset("fast"), 0, 0.6)
    assert start.positions[0].tolist() == pytest.approx([1.4 * (2 * (i + 0.5) / 16 - 1) for i in (9, 5, 3)], abs=1e-5)


def test_the_bundled_mini_model_finds_the_calibration_object_and_says_its_forms():
    """And auto, which the header spares it, would have named the proposal's form, and left the reconstruction's open: it hardly matters."""
    assert files.MINI_FILE.is_file()
    model, report = load(folders.MINI)
    assert report.count("the file says so") == 2
    seen = calibration.calibration_views()
    images = seen.images.movedim(1, -1) + (1 - seen.masks.movedim(1, -1))
    voxel, _ = propose(model, images, seen.masks[:, 0], seen.cameras)
    found = occupancy_score.occupancy_score(voxel.data[0], voxel.lathe_extents[0], seen.masks, seen.cameras)
    assert found.score > 0.5
    (splats,) = reconstruct(model, voxel, images, seen.masks[:, 0], seen.cameras, tokens=4096)
    assert len(splats) > 1000 and float(splats.positions.abs().max()) < 1.2
    proposal = detect_attention.choose_proposal(model.model)
    assert proposal.decided and proposal.chosen == model.model.propose_as
    assert max(proposal.scores[:2]) > 0.8 and proposal.scores[2] < 0.3
    reconstruction = detect_attention.choose_reconstruction(model.model, detect_attention.own_cells(model.model))
    assert not reconstruction.decided and reconstruction.chosen == model.model.reconstruct_as
    assert max(reconstruction.scores) - min(reconstruction.scores) < 1 and min(reconstruction.scores) > 18


def test_the_budget_bounds_a_grid_that_is_full(own_file, caplog):
    model, _ = load(own_file)
    images, masks = pictures()
    full = to_core_voxel(torch.ones(1, 16, 16, 16), [4 / 1.5 * 0.5 * 16 / 15])
    counted = reconstruct(model, full, images, masks, tokens=100)[0]
    assert len(counted) <= 400
    again, other = (reconstruct(model, full, images, masks, tokens=100, seed=seed)[0] for seed in (0, 1))
    assert torch.equal(again.positions, counted.positions) and not torch.equal(other.positions[:50], counted.positions[:50])
    with caplog.at_level(logging.WARNING):
        geolrm.tell_occupied(full.data[0], 0.5, 1)
    assert "100 % of the cells of asset 1 are occupied" in caplog.text


def test_no_occupied_voxel_says_what_to_lower(own_file, caplog):
    model, _ = load(own_file)
    images, masks = pictures()
    with caplog.at_level(logging.WARNING):
        voxel, _ = propose(model, images, masks, threshold=1.0)
    assert "no voxel of asset 1 is above 1; the highest is" in caplog.text and "Lower the threshold" in caplog.text
    with pytest.raises(ValueError, match=r"No voxel of asset 1 is occupied: its highest probability is .* Lower the threshold"):
        reconstruct(model, voxel, images, masks, threshold=1.0)


def test_a_file_with_one_network(tmp_path):
    images, masks = pictures()
    files.save_geolrm(tiny_model(reconstruction=None, name="half"), tmp_path / "half.safetensors")
    model, report = load("half.safetensors")
    assert report.splitlines()[0] == "half: proposal network, views of 112 pixels"
    voxel, _ = propose(model, images, masks)
    with pytest.raises(ValueError, match=r"half holds no reconstruction network \(lrm_generator\.\*\)"):
        reconstruct(model, voxel, images, masks)
    files.save_geolrm(tiny_model(proposal=None, name="half"), tmp_path / "other.safetensors")
    model, _ = load("other.safetensors")
    with pytest.raises(ValueError, match=r"half holds no proposal network \(serializer\.\*\)"):
        propose(model, images, masks)
    assert len(reconstruct(model, voxel, images, masks)[0]) > 0


def test_memory_is_estimated_before_anything_starts(own_file, monkeypatch):
    model, _ = load(own_file)
    images, masks = pictures()
    monkeypatch.setattr(memory, "memory_left", lambda *where: 1 << 20)
    monkeypatch.setattr(model.nets["proposal"], "use", lambda need: pytest.fail("moved"))
    with pytest.raises(ValueError, match=r"proposal network with 3 views of 112 pixels and 64 tokens takes about .* Give fewer views"):
        propose(model, images, masks)


def test_bad_views_are_told_before_a_network_moves(own_file, monkeypatch):
    model, _ = load(own_file)
    images, masks = pictures()
    for net in model.nets.values():
        monkeypatch.setattr(net, "use", lambda need: pytest.fail("moved"))
    turned = CAMERAS.c2w.clone()
    turned[:, :3, 0], turned[:, :3, 2] = -turned[:, :3, 0], -turned[:, :3, 2]
    away = type(CAMERAS)(turned, CAMERAS.K, CAMERAS.names)
    with pytest.raises(ValueError, match="The cameras of asset 1 look away: none of its 3 views"):
        propose(model, images, masks, away)
    with pytest.raises(ValueError, match="Masks must have shape"):
        propose(model, images, masks[:, :20])
    with pytest.raises(ValueError, match="1 to 24 views, not 25"):
        propose(model, images[:1].repeat(25, 1, 1, 1), None, orbit_cameras(25))
    with pytest.raises(ValueError, match="3"):
        propose(model, images[:2], masks[:2])


def test_auto_looks_once_and_remembers(published_file, tmp_path, monkeypatch):
    looked = []

    def choose(part, decided):
        def verdict(model, *, tick, **how):
            looked.append(part)
            assert part == "proposal" or how["cells"] == "cells" and model.propose_as == NetworkForm("heads", 0.5)
            return attention_memory.Verdict(NetworkForm("heads", 0.5), decided, f"{part}: heads (test)", (0.1, 0.1, 0.9))

        return verdict

    monkeypatch.setattr(detect_attention, "own_cells", lambda model, **how: "cells")

    monkeypatch.setattr(detect_attention, "choose_proposal", choose("proposal", True))
    monkeypatch.setattr(detect_attention, "choose_reconstruction", choose("reconstruction", False))
    model, report = load(published_file)
    assert looked == ["proposal", "reconstruction"] and "proposal: heads (test)" in report
    assert model.model.propose_as == model.model.reconstruct_as == NetworkForm("heads", 0.5)
    model, report = load(published_file)
    assert len(looked) == 2 and "reconstruction: heads (test), as found before" in report
    assert model.model.reconstruct_as == NetworkForm("heads", 0.5)
    content = json.loads((tmp_path / "user" / "lathe" / geolrm.MEMORY_FILE).read_text())
    assert list(content["files"].values())[0]["proposal"]["chosen"] == {"form": "heads", "scale": 0.5}


def test_auto_on_weights_that_make_no_sense_takes_the_papers_form(published_file, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        model, report = load(published_file)
    assert model.model.propose_as == model.model.reconstruct_as == NetworkForm("tokens", 0.5)
    assert "no form gives an occupancy" in report and "no form gives splats" in report and "no form" in caplog.text
    monkeypatch.setattr(geolrm.LoadedGeoLRM, "_look", lambda *given: pytest.fail("looked again"))
    assert load(published_file)[1].count("as found before") == 2


def test_a_wrong_form_that_is_forced_works_and_warns(own_file, caplog):
    images, masks = pictures()
    with caplog.at_level(logging.WARNING):
        model, report = load(own_file, proposal_form="heads", reconstruction_form="tokens, scale 1")
    assert "proposal: heads, as asked; the file says tokens, scale 0.5, so the result may be worse" in report
    assert report.endswith("reconstruction: tokens, scale 1, as asked; the file says tokens, scale 0.5")
    assert "proposal: heads, as asked" in caplog.text and "reconstruction" not in caplog.text  # scale 1 is what is published, too
    assert (model.model.propose_as.form, model.model.reconstruct_as.scale) == ("heads", 1.0)
    voxel, _ = propose(model, images, masks)
    assert len(reconstruct(model, voxel, images, masks)[0]) > 0


def test_a_form_that_an_earlier_look_speaks_against_warns(published_file, tmp_path, caplog):
    """The file says nothing; what auto found out about it before does. The network that is not forced keeps the verdict."""
    memory = attention_memory.FormMemory(folders.remembered(geolrm.MEMORY_FILE))
    heads = attention_memory.Verdict(NetworkForm("heads", 0.5), True, "heads, as seen", (0.1, 0.1, 2.0))
    memory.keep(attention_memory.file_hash(tmp_path / published_file), {"proposal": heads, "reconstruction": heads})
    with caplog.at_level(logging.WARNING):
        model, report = load(published_file, proposal_form="tokens")
    assert "proposal: tokens, scale 0.5, as asked; these weights expect heads, so the result will be worse" in report
    assert "these weights expect heads" in caplog.text and "heads, as seen, as found before" in report
    assert (model.model.propose_as.form, model.model.reconstruct_as.form) == ("tokens", "heads")


def test_a_form_that_did_as_well_as_another_is_forced_without_a_warning(published_file, tmp_path, caplog):
    memory = attention_memory.FormMemory(folders.remembered(geolrm.MEMORY_FILE))
    found = attention_memory.Verdict(NetworkForm("tokens", 0.5), True, "tokens, as seen", (20.0, 20.3, 12.0))
    unsure = attention_memory.Verdict(NetworkForm("tokens", 0.5), False, "tokens, the paper's", (20.0, 20.3, 20.1))
    memory.keep(attention_memory.file_hash(tmp_path / published_file), {"proposal": found, "reconstruction": unsure})
    with caplog.at_level(logging.WARNING):
        _, report = load(published_file, proposal_form="tokens, scale 1", reconstruction_form="heads")
    assert report.splitlines()[1:] == ["proposal: tokens, scale 1, as asked", "reconstruction: heads, as asked"] and not caplog.text


def test_a_file_loads_where_memory_is_too_short_for_a_look(published_file, monkeypatch, caplog):
    monkeypatch.setattr(memory, "memory_left", lambda *where: 1 << 20)
    with caplog.at_level(logging.WARNING):
        model, report = load(published_file)
    for part in ("proposal", "reconstruction"):
        assert f"{part}: tokens, scale 0.5, the paper's, for the forms could not be tried: GeoLRM's proposal network with 8 views" in report
    assert report.count("choose another form yourself in Load GeoLRM") == 2 and "token budget" not in report and "MiB" not in report
    assert "could not be tried" in caplog.text and model.model.propose_as == model.model.reconstruct_as == NetworkForm("tokens", 0.5)
    looked = []
    again = attention_memory.not_looked_at("proposal", "again")
    monkeypatch.setattr(geolrm.LoadedGeoLRM, "_look", lambda self, part, tick: looked.append(part) or again)
    load(published_file)
    assert looked == ["proposal", "reconstruction"]


def test_cancel_stops_within_a_layer(own_file, monkeypatch):
    model, _ = load(own_file)
    images, masks = pictures()
    steps = []

    class Cancelled(Exception):
        pass

    def tick_for(node):
        def tick(step, total, preview=None):
            steps.append((step, total))
            if step == 4:  # after the encoder's three views and one of the first layer's
                raise Cancelled

        return tick

    monkeypatch.setattr(progress, "tick_for", tick_for)
    with pytest.raises(Cancelled):
        propose(model, images, masks)
    assert steps[-1] == (4, 9)


def test_choices_and_schemas():
    options = LatheLoadGeoLRM.define_schema().inputs[0].options
    assert options[:2] == [folders.MINI, "geolrm"]
    with pytest.raises(ValueError, match=r"GeoLRM is not on this machine.*huggingface\.co/LinShan/GeoLRM"):
        load("geolrm")
    for node in geolrm.NODES:
        made = node.define_schema()
        assert all(entry.tooltip for entry in [*made.inputs, *made.outputs])
    assert VOXEL.io_type == "VOXEL"
