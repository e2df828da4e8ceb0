"""Training: a single stream on frozen features (notebook 03), both in turn (08), a run in a folder (09)."""

from dwclib import lazy

__getattr__, __dir__ = lazy(
    __name__,
    alternate="AlternateTraining Batch",
    config="Config read_config read_recipe",
    embedding="Embedded compose_queries embed embed_gallery search",
    evaluation="ranks_of recalls_of",
    runs="Run open_run shared_run",
    single="seed_everything train",
)
