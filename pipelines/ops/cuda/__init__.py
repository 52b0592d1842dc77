"""Kernels of our own on NVIDIA cards: CUDA C++ text, compiled by the NVRTC that PyTorch carries, launched on PyTorch's stream."""
