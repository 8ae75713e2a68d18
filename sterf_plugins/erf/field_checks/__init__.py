"""Fields compared with what a network does: patches of the input are changed, or weights randomised."""
