"""One folder of figures, tables and a page for the results of a run."""
