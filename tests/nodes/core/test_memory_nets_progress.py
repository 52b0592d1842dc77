"""What the host lends: networks on their device under every memory mode, ticks, gradients, file names."""

import types

import pytest
import torch
from lathe.nodes.core import files, gradients, memory, nets, progress
from lathe.nodes.core.folders import model_files, model_path
from torch import nn


class Net(nn.Module):
    device = property(lambda self: torch.device("cpu"))  # as diffusers' models have it: core may not set it

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x):
        return self.layer(x) + self.table


@pytest.fixture
def folders(tmp_path, monkeypatch):
    import folder_paths

    folder_paths.set_output_directory(str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "lathe", ([str(tmp_path / "models")], set()))
    (tmp_path / "models" / "deep").mkdir(parents=True)
    return tmp_path


def test_loaded_net_runs_and_can_be_trained_after_loading():
    with torch.inference_mode():
        loaded = nets.LoadedNet(Net)
        with loaded.use(1 << 20) as net:
            assert isinstance(net, Net)
            out = net(torch.ones(2, 4))
        assert out.shape == (2, 4) and loaded.dtype == torch.float32
        with gradients.differentiable():
            gradients.heal(net)
            net.layer.requires_grad_(True)
            net(torch.ones(2, 4)).sum().backward()
            assert net.layer.weight.grad.abs().sum() > 0


def test_heal_replaces_inference_tensors():
    with torch.inference_mode():
        net = Net()
    with gradients.differentiable():
        assert net.layer.weight.is_inference()
        gradients.heal(net)
        assert not net.layer.weight.is_inference() and not net.table.is_inference()


@pytest.mark.parametrize("mode", ["NORMAL_VRAM", "LOW_VRAM", "NO_VRAM"])
def test_a_net_is_whole_on_its_device_in_every_memory_mode(mode, monkeypatch):
    """The 'meta' device stands in for a small GPU, as core sees one."""
    mm = progress.mm
    monkeypatch.setattr(mm, "get_torch_device", lambda: torch.device("meta"))
    monkeypatch.setattr(mm, "vram_state", getattr(mm.VRAMState, mode))
    monkeypatch.setattr(mm, "unet_offload_device", lambda: torch.device("meta"))  # nothing can be copied back from it
    monkeypatch.setattr(mm, "get_free_memory", lambda *a, torch_free_too=False: (1 << 10, 0) if torch_free_too else 1 << 10)
    monkeypatch.setattr(mm, "soft_empty_cache", lambda *a, **k: None)
    loaded = nets.LoadedNet(Net)
    with loaded.use() as net:
        assert {t.device.type for t in [*net.parameters(), *net.buffers()]} == {"meta"}


def test_a_net_of_several_modules():
    pair = types.SimpleNamespace(first=Net(), second=Net())
    loaded = nets.LoadedNet(lambda: pair, parts=lambda p: [p.first, p.second])
    with loaded.use() as net:
        assert net is pair
    assert loaded.patcher.model_size() == 2 * (16 + 4 + 4) * 4


def test_tick_reports_previews_and_cancels(monkeypatch):
    seen = []
    monkeypatch.setattr(progress.comfy.utils, "PROGRESS_BAR_HOOK", lambda *a, node_id: seen.append((*a, node_id)))
    node = types.SimpleNamespace(hidden=types.SimpleNamespace(unique_id="7"))
    tick = progress.tick_for(node)
    tick(1, 10, torch.rand(700, 300, 3))
    tick(2, 10, torch.rand(8, 8, 3))  # too soon for another picture; newer cores leave such a step out
    tick(10, 10, torch.rand(8, 8, 3))  # the last is always shown
    assert [s[:2] for s in seen if s[2]] == [(1, 10), (10, 10)] and {s[3] for s in seen} == {"7"}
    assert seen[0][2][1].size == (219, 512) and seen[-1][2][1].size == (8, 8)
    progress.mm.interrupt_current_processing(True)
    with pytest.raises(progress.mm.InterruptProcessingException):
        tick(3, 10)


def test_precision_and_attention_on_a_cpu():
    if memory.device().type == "cpu":
        assert memory.compute_dtype(torch.bfloat16, torch.float16) == torch.float32
        assert memory.attention() is None


def test_host_attention_agrees_with_torch(monkeypatch):
    monkeypatch.setattr(progress.mm, "is_device_cpu", lambda d: False)
    monkeypatch.setattr(progress.mm, "pytorch_attention_enabled", lambda: False)
    q, k, v = torch.randn(3, 2, 4, 33, 16).unbind(0)
    torch.testing.assert_close(memory.attention()(q, k, v), nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-4)


def test_output_names_count_on_and_stay_inside(folders):
    first = files.output_files("lathe/mesh", ".glb", 2)
    assert [f.path.name for f in first] == ["mesh_00001_.glb", "mesh_00002_.glb"]
    assert first[0].path.parent == folders / "output" / "lathe"
    first[1].path.write_bytes(b"x")
    assert files.output_files("lathe/mesh", ".glb", 1)[0].result == {"filename": "mesh_00003_.glb", "subfolder": "lathe", "type": "output"}
    for hostile in ("../mesh", "a/../../mesh", "/etc/mesh", "..\\mesh", "", ".."):
        with pytest.raises(ValueError, match="leads out of the output folder"):
            files.output_files(hostile, ".glb", 1)


@pytest.mark.parametrize("name", ["a:b", "CON", "lathe/nul.mesh", "a\nb", "lathe./mesh", "n" * 300])
def test_names_that_some_system_cannot_write(folders, name):
    with pytest.raises(ValueError, match="file name"):
        files.output_files(name, ".glb", 1)


def test_memory_that_runs_out_is_said_in_words():
    for run_out in (lambda: torch.empty(2**52), lambda: bytearray(2**60)):
        with pytest.raises(memory.NotEnoughMemory, match="Bake Views ran out of memory"), memory.in_words("Bake Views"):
            run_out()
    with pytest.raises(RuntimeError, match="another"), memory.in_words("Bake Views"):
        raise RuntimeError("another")


def test_an_output_folder_that_cannot_be_made(folders):
    (folders / "output" / "taken").write_text("a file")
    with pytest.raises(ValueError, match="cannot be made"):
        files.output_files("taken/mesh", ".glb", 1)


def test_model_names(folders):
    (folders / "models" / "deep" / "a.safetensors").write_bytes(b"")
    (folders / "models" / "b.txt").write_bytes(b"")
    assert model_files(".safetensors", ".ckpt") == ["deep/a.safetensors"]
    assert model_path("deep/a.safetensors").is_file()
    with pytest.raises(ValueError, match="leads out of the model folder"):
        model_path("../secret.ckpt")
    with pytest.raises(ValueError, match="There is no 'c.ckpt'"):
        model_path("c.ckpt")
