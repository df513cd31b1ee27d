"""The command line ``smdl``."""

from smdl_flower.cli.main import main

__all__ = ["main"]
