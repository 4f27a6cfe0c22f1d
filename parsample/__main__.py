"""``python -m parsample``: the command line."""

from parsample.cli.main import run

run()
