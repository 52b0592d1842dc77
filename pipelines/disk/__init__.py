"""The disk: files written whole or not at all, state dicts read without running code."""
