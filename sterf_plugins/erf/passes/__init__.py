"""Forward and backward passes: what is looked up before them, where gradients start, and the fields they give."""
