"""Iterated RLHF: `hfkit run` on a pipeline with `rounds`."""
