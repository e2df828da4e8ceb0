"""Experiments: grids of runs, the rows that are kept of them, and what they allow us to say (notebook 11)."""

from dwclib import lazy

__getattr__, __dir__ = lazy(
    __name__,
    grid="GRIDS Cell Grid grid_names read_grid",
    rows="query_groups compute_row publish code_fingerprint pack unpack",
    statistics="MARGIN Interval Gain Comparison mean_interval crossed_interval gain_of mean_gain compare "
    "holm detectable verdict in_words",
    results="Results differing",
    store="FOLDER Verified load missing run verify",
    quantities="quantity row_of",
    leaderboard="ROWS standings wrong_by_chance",
    claims="verdict_of",
)
