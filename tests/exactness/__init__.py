"""The engine against references that share no code with it: exact keep-all, exact removal, exact signals and counts."""
