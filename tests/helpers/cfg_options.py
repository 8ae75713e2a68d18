"""Settings as a user types them."""

import argparse

from sterf_plugins.cli.cfg_options import Settings


def settings_of(*texts: str) -> dict:
    """What ``--cfg-options`` makes of its arguments."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--cfg-options", nargs="+", action=Settings)
    return parser.parse_args(["--cfg-options", *texts]).cfg_options
