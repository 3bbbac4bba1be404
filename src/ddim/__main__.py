"""`python -m ddim` is the `ddim` command."""

from ddim.cli import main

main()
