"""Measured figures: parity with the published code, quality, speed and memory."""
