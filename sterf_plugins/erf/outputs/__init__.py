"""What comes out of a layer: which layers, in which of their calls, and their outputs of any layout as maps."""
