"""What ``tools/erf.py`` and its relatives share: which fields are asked for, of which inputs, and what becomes of them."""
