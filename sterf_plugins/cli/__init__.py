"""What the command-line tools share. The library never imports it."""
