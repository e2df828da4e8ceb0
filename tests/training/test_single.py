import subprocess
import sys

import numpy as np
import pytest
import torch

from dwclib.baselines import BASELINES
from dwclib.data.triplets import Triplets
from dwclib.encoders import Features
from dwclib.errors import ConfigError, FeatureError
from dwclib.retrieval import recall_at_k
from dwclib.streams import ClipStream
from dwclib.training import compose_queries, embed_gallery, search, seed_everything, train


def toy(queries=64, width=16, seed=0):
    """Make a task that can be solved: the target's feature is the reference's plus the text's."""
    rng = np.random.default_rng(seed)
    references, texts = rng.normal(size=(2, queries, width))
    dataset = Triplets(
        name="toy",
        image_ids=tuple(f"i{i}" for i in range(2 * queries)),
        identities=np.arange(2 * queries),
        references=np.arange(queries),
        targets=np.arange(queries, 2 * queries),
        captions=(("is different",),) * queries,
        gallery=np.arange(2 * queries),
    )
    images = np.concatenate([references, references + texts])
    return dataset, Features(torch.tensor(images).float(), torch.tensor(texts).float())


def fit(seed=0, **options):
    dataset, features = toy()
    seed_everything(seed)
    stream = ClipStream(16, dim=32)
    return stream, train(stream, features, dataset, **{"epochs": 3, "batch": 16, "seed": seed, **options})


def recall(stream, dataset, features):
    targets = torch.from_numpy(dataset.gallery_position(dataset.targets))
    return recall_at_k(search(stream, features, dataset, k=10), targets, ks=(1, 10))[1]


@pytest.mark.parametrize("composer", [ClipStream, *BASELINES.values()])
def test_training_lowers_the_loss(composer):
    dataset, features = toy()
    seed_everything(0)
    losses = train(composer(16, dim=32), features, dataset, epochs=20, batch=16, learning_rate=3e-3)
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_a_trained_stream_finds_more_than_an_untrained_one():
    dataset, features = toy()
    seed_everything(0)
    stream = ClipStream(16, dim=64, dropout=0.1)
    before = recall(stream, dataset, features)
    train(stream, features, dataset, epochs=40, batch=32, learning_rate=3e-3)
    assert recall(stream, dataset, features) > before + 30


def test_same_seed_same_numbers():
    (one, first), (two, second) = fit(), fit()
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert fit(seed=1)[1] != first


@pytest.mark.parametrize("setting", [{"alpha": 0.0}, {"temperature": 0.2}, {"detach": False}, {"batch": 8},
                                     {"learning_rate": 1e-3}, {"weight_decay": 0.1}])  # fmt: skip
def test_every_setting_counts(setting):
    assert fit(**setting)[1] != fit()[1]


def test_the_stream_is_left_in_eval_mode():
    stream, _ = fit()
    assert not stream.training
    dataset, features = toy()
    first = compose_queries(stream, features, dataset).query
    assert torch.equal(first, compose_queries(stream, features, dataset).query)


def test_the_reference_is_never_found_unless_asked_for():
    dataset, features = toy()
    stream, _ = fit()
    everything = len(dataset.gallery)
    found = search(stream, features, dataset, k=everything - 1)
    references = torch.from_numpy(dataset.gallery_position(dataset.references))
    assert not (found == references[:, None]).any()
    kept = search(stream, features, dataset, k=everything, exclude_reference=False)
    assert (kept == references[:, None]).any(dim=1).all()


def test_other_reference_images_can_be_shown():
    dataset, features = toy()
    stream, _ = fit()
    same = compose_queries(stream, features, dataset, images=features.images[:64])
    other = compose_queries(stream, features, dataset, images=features.images[64:])
    assert torch.equal(same.query, compose_queries(stream, features, dataset).query)
    assert not torch.equal(same.query, other.query)
    assert embed_gallery(stream, features, dataset).shape == (128, 32)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_bad_features_are_named(kind):
    dataset, features = toy()
    broken = features._replace(**{kind: getattr(features, kind).clone()})
    getattr(broken, kind)[5, 0] = torch.nan
    with pytest.raises(FeatureError, match=f"toy, {kind} row 5"):
        train(ClipStream(16, dim=8), broken, dataset, epochs=1)
    short = features._replace(**{kind: getattr(features, kind)[1:]})
    with pytest.raises(FeatureError, match="features of"):
        search(ClipStream(16, dim=8), short, dataset)


@pytest.mark.parametrize("batch", [0, 1, 65])
def test_a_batch_that_cannot_be_filled_is_refused(batch):
    with pytest.raises(ConfigError, match="2 to 64"):
        fit(batch=batch)


@pytest.mark.parametrize(
    "setting", [{"epochs": 0}, {"temperature": 0.0}, {"learning_rate": -1.0}, {"weight_decay": float("nan")},
                {"seed": -1}, {"device": "abacus"}]
)  # fmt: skip
def test_a_setting_that_cannot_be_is_told_by_its_name(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        fit(**setting)


@pytest.mark.parametrize("composer", [ClipStream, *BASELINES.values()])
def test_a_width_is_a_positive_number(composer):
    with pytest.raises(ConfigError, match="dim = -1"):
        composer(16, dim=-1)


def test_settings_of_another_type_are_told_too():
    """Without the tests' own check of types, as in a notebook."""
    code = (
        "import numpy as np, torch; from dwclib.data.triplets import Triplets\n"
        "from dwclib.encoders import Features; from dwclib.errors import DwcError\n"
        "from dwclib.streams import ClipStream; from dwclib.training import train\n"
        "one, other = np.array([0, 1]), np.array([1, 0])\n"
        "toy = Triplets(name='toy', image_ids=('a', 'b'), identities=one, references=one, targets=other,\n"
        "               captions=(('x',),) * 2, gallery=one)\n"
        "features = Features(torch.ones(2, 4), torch.ones(2, 4))\n"
        "for setting in ({'seed': 'a'}, {'epochs': 'a'}, {'epochs': 1.5}, {'batch': 'a'}, {'batch': 2.0},\n"
        "                {'learning_rate': 'a'}):\n"
        "    try: train(ClipStream(4, dim=8), features, toy, **{'batch': 2, **setting})\n"
        "    except DwcError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(found.stdout.splitlines()) == 6, found.stdout


def test_a_seed_is_a_natural_number():
    with pytest.raises(ConfigError, match="natural number"):
        seed_everything(-1)


def test_other_labels_than_soft_ones_can_be_given():
    hard = fit(alpha=0.0)[1]
    seen = []

    def identity(y, queries):
        seen.append(queries)
        return torch.eye(len(y))

    assert fit(labels=identity)[1] == pytest.approx(hard)  # every garment of the toy is its own
    assert sorted(torch.cat(seen[:4]).tolist()) == list(range(64))
    even = fit(labels=lambda y, queries: torch.full((len(y), len(y)), 1 / len(y)))[1]
    assert even[-1] != pytest.approx(hard[-1])
