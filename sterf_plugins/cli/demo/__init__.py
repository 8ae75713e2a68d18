"""What the demos share: their steps, their pages, and the scores of rendered scenes."""
