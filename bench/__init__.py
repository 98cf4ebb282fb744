"""Side-by-side measurements. Each prints a table with its reference, measured in the same run, beside it."""
