"""Theoretical receptive fields: what an output can depend on by the way a network is built."""
