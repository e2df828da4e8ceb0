"""Training: a composer on cached features (notebook 03), both streams in turn (08), a run (09)."""

from dwclib import lazy

__getattr__ = lazy(
    __name__,
    alternate="AlternateTraining Batch",
    composer="Embedded compose_queries embed embed_gallery search seed_everything train",
    config="Config read_config read_recipe",
    evaluation="ranks_of recalls_of",
    runs="Run open_run shared_run",
)
