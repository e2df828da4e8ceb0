"""Draw the picture of the README and the first page: one query and what a trained CLIP stream finds.

Run it from anywhere: ``python book/_static/cover.py`` (about a minute on a laptop).
"""

from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch

from dwclib.book import plots
from dwclib.data.drawing import render
from dwclib.data.synthfashion import synthfashion
from dwclib.encoders import Clip, features_of
from dwclib.retrieval import target_ranks
from dwclib.streams import ClipStream
from dwclib.training import compose_queries, embed_gallery, search, seed_everything, train

SIZE = 192


def main() -> None:
    """Train, choose a well-told query whose target comes first, and draw it large."""
    train_set, val_set = synthfashion("train"), synthfashion("val")
    clip = Clip()
    features, val_features = (features_of(clip, s, s.pictures) for s in (train_set, val_set))
    seed_everything(0)
    stream = ClipStream(features.images.shape[1], dim=256)
    train(stream, features, train_set, epochs=10, batch=128, learning_rate=1e-3)
    draw(val_set, search(stream, val_features, val_set, k=5).numpy(), chosen(stream, val_features, val_set))
    plt.savefig(Path(__file__).with_name("readme.png"), dpi=140)


def chosen(stream, features, dataset) -> int:
    """Return a query with a clear reference, three claims in its text, and its target in first place."""
    queries = compose_queries(stream, features, dataset).query
    gallery = embed_gallery(stream, features, dataset)
    places = (torch.from_numpy(dataset.gallery_position(x)) for x in (dataset.targets, dataset.references))
    targets, references = places
    ranks = target_ranks(queries, gallery, targets, exclude=references).numpy()
    named = (~dataset.alone.all(-1)).sum(-1)
    clear = np.array([dataset.scenes[i].occlusion + dataset.scenes[i].blur == 0 for i in dataset.references])
    dress = dataset.codes[dataset.references, 0] == 0
    return int(np.flatnonzero((ranks == 1) & (named == 3) & clear & dress)[0])


def draw(dataset, ranking, query) -> None:
    """Draw reference, text and the first five answers."""
    plots.use_style()
    images = [dataset.references[query], *dataset.gallery[ranking[query]]]
    pictures = [render(dataset.garment(i), SIZE, dataset.scenes[i]) for i in images]
    axes = plt.subplots(1, 7, figsize=(10, 1.65), width_ratios=(1, 1.5, 1, 1, 1, 1, 1))[1]
    plots.show_picture(axes[0], pictures[0], "reference", plots.IMAGE)
    axes[1].set_axis_off()
    said = "\n".join(fill(f"“{caption}”", 26) for caption in dataset.captions[query])
    axes[1].text(0.5, 0.5, said, ha="center", va="center", color=plots.TEXT, fontsize=9)
    for place, axis in enumerate(axes[2:], start=1):
        right = images[place] == dataset.targets[query]
        plots.show_picture(axis, pictures[place], f"answer {place}", plots.MIX if right else None)


if __name__ == "__main__":
    main()
