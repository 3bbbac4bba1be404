"""The page of `ddim app`: sample, compare steps, edit, and watch runs, in a browser."""
