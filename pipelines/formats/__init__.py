"""File formats: what is read and written, byte for byte."""
