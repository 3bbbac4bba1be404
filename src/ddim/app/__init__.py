"""The page of `ddim app`: sample, compare steps, edit, and watch runs, in a browser."""

LOCAL = ("127.0.0.1", "localhost")
"""The names of this machine, by which it is asked without a password."""
