"""What a training run is made of: data, model and training, from one YAML file or from Python (notebook 09).

Every switch at which the released code departs from the paper's claim is a field here; its default is the
claim.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from dwclib.baselines import BASELINES
from dwclib.data.datasets import DataConfig, PhotoConfig, Section
from dwclib.editors import Edited
from dwclib.errors import MAX_SEED, ConfigError, brief, check_choice
from dwclib.files import DATA, read_yaml

RECIPES = DATA / "recipes"
WIDEST = 2**16  # of a layer: more would not fit into any memory
# What changes no number of a training: where the data lies, who reads it, and how often something is written.
# What a missing photo takes out of the training triplets is told by their fingerprint.
INDIFFERENT = (
    "data.root",
    "data.missing",
    "training.workers",
    "training.watched",
    "training.log_every",
    "training.checkpoint_every",
)
# What a published name or a path can stand for, and the file by which a folder is known to be one.
NAMED_FILES = {
    "model.clip": "open_clip_config.json",
    "model.clip_weights": "",
    "model.cnn": "config.json",
    "model.cnn_weights": "",
}


class ModelConfig(Section):
    """Which streams, of which parts.

    Attributes
    ----------
    streams : "clip", "cnn" or both.
    composer : the CLIP stream's: "DWC", or one of `dwclib.baselines.BASELINES` in its place.
    dim : D, the embedding width of both streams.
    dropout : dropout probability throughout.
    clip, clip_weights : as `dwclib.encoders.Clip` takes them; "book" is the one that comes with the book.
    cnn, cnn_weights : as `dwclib.encoders.ResNet` takes them, likewise.
    word_dim : width of a word's embedding.
    word_temperature, position_temperature : of the attention.
    mask_padding : keep padded words out of attention, means, statistics and pooling. Released code: no, and
        there padding, unknown words and marks are one word with a learned embedding, as they are here then.
    editors : which modalities have an editor: "both", "image", "text" or "none" (ablations).
    modality_weight : "scalar", one learned weight a query; "vector", one a feature; or a number from 0 to 1
        for all queries (ablations).
    """

    streams: list[Literal["clip", "cnn"]] = Field(default=["clip", "cnn"], min_length=1)
    composer: str = "DWC"
    dim: PositiveInt = Field(default=1024, multiple_of=8, le=WIDEST)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    clip: str = "book"
    clip_weights: str | None = None
    cnn: str = "book"
    cnn_weights: str | None = None
    word_dim: PositiveInt = Field(default=512, le=WIDEST)
    word_temperature: PositiveFloat = 7.0
    position_temperature: PositiveFloat = 4.0
    mask_padding: bool = True
    editors: Edited = "both"
    modality_weight: Literal["scalar", "vector"] | Annotated[float, Field(ge=0, le=1)] = "scalar"

    @field_validator("composer")
    @classmethod
    def _is_one(cls, composer: str) -> str:
        if composer not in ("DWC", *BASELINES):
            raise PydanticCustomError("composer", f"Use DWC, {', '.join(BASELINES)}")
        return composer

    @field_validator("clip_weights", "cnn_weights")
    @classmethod
    def _are_read(cls, weights: str | None, info: Any) -> str | None:
        name = str(info.field_name).removesuffix("_weights")
        if weights and (name not in info.data.get("streams", [name]) or info.data.get(name) == "book"):
            raise PydanticCustomError(
                "unread", f"Weights need the {name} stream, and a name in {name} other than 'book'"
            )
        return weights


class TrainingConfig(Section):
    """How to train.

    Attributes
    ----------
    epochs, batch : an incomplete last batch is left out.
    learning_rate, cnn_learning_rate : of the two Adam optimisers; None gives the CNN stream the same.
    weight_decay : of both.
    decay : "constant" learning rates, or "cosine" to zero.
    alpha, temperature : of soft labels and contrastive loss.
    kept : share of a batch's queries that learn, those with the smallest losses (a rival for noisy labels).
    mutual_weight, mutual_scale : weight of the mutual enhancement loss, 0 for none; scale of its cosines.
    order : "alternate", each stream learns from the other as it is after its last step; or "simultaneous",
        both learn from the other as it was before the step.
    teacher_target : whether the teacher embeds the "target", or the "reference" in its place (released code).
    teacher_mode : "eval", or "train": with dropout, and batch norm's statistics updated (released code).
    share_maps : the CNN stream, as a teacher, takes over the feature maps and their edits that it computes
        anyway as a student; False runs ResNet and editors once more, in the teacher's mode (released code).
    detach_labels : keep the gradient out of the soft labels (released code: no).
    select_on : which queries choose the checkpoint: "validation", held out of the training split, or
        "evaluation", the very queries that are reported (released code).
    validation_share : share of the garments whose queries are held out.
    flip : mirror pictures at random.
    precision : "float32", "bf16", "fp16", or "auto": bf16 on a GPU, float32 elsewhere.
    shared_scaler : one gradient scaler for both optimisers (released code), where fp16 needs one.
    watched : splits whose recall is written down after every epoch beside the one that chooses.
    log_every, checkpoint_every : steps; a checkpoint is written after every epoch too.
    workers : processes that read pictures ahead.
    seed : of weights, order, flips and dropout.
    """

    epochs: PositiveInt = 200
    batch: int = Field(default=32, ge=2)
    learning_rate: PositiveFloat = 1e-4
    cnn_learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 1e-6
    decay: Literal["constant", "cosine"] = "constant"
    alpha: float = Field(default=0.2, ge=0, le=1)
    temperature: PositiveFloat = 0.07
    kept: float = Field(default=1.0, gt=0, le=1)
    mutual_weight: NonNegativeFloat = 1.0
    mutual_scale: PositiveFloat = 10.0
    order: Literal["alternate", "simultaneous"] = "alternate"
    teacher_target: Literal["target", "reference"] = "target"
    teacher_mode: Literal["eval", "train"] = "eval"
    share_maps: bool = True
    detach_labels: bool = True
    select_on: Literal["validation", "evaluation"] = "validation"
    validation_share: float = Field(default=0.05, gt=0, lt=0.5)
    flip: bool = False
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    shared_scaler: bool = False
    watched: list[Literal["training", "validation", "evaluation"]] = Field(default=[])
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 500
    workers: NonNegativeInt = Field(default=0, le=256)
    seed: NonNegativeInt = Field(default=0, le=MAX_SEED)


def _kind_of(data: Any) -> str:
    """Tell which section a `data` section is; one that names no dataset is the embedded one."""
    name = data.get("dataset", "synthfashion") if isinstance(data, dict) else getattr(data, "dataset", None)
    return "photos" if isinstance(name, str) and name != "synthfashion" else "drawn"


class Config(Section):
    """A whole run: `data`, `model`, `training`."""

    data: Annotated[
        Annotated[DataConfig, Tag("drawn")] | Annotated[PhotoConfig, Tag("photos")], Discriminator(_kind_of)
    ] = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    def but(self, **sections: dict[str, Any]) -> Config:
        """Return a copy in which some keys are changed: ``config.but(training={"mutual_weight": 0.0})``."""
        values = self.model_dump()
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}
        return parse_config(values, "Config.but")

    def resolved(self) -> Config:
        """Return a copy whose paths do not depend on the folder in which the program runs."""
        values = self.model_dump()
        if root := values["data"].get("root"):
            values["data"]["root"] = os.path.abspath(os.path.expanduser(root))
        model = values["model"]
        for name, inner in NAMED_FILES.items():
            key = name.removeprefix("model.")
            value = model[key] or ""
            head, sign, _ = value.partition("=")  # of "openai=FILE"
            tag = head + sign if key == "clip_weights" and sign and "/" not in head else ""
            path = os.path.expanduser(value.removeprefix(tag))
            if value != "book" and os.path.isfile(Path(path, inner)):
                model[key] = tag + os.path.abspath(path)
        return parse_config(values, "Config.resolved")

    def choices(self) -> dict[str, Any]:
        """Return what of it changes the numbers of a training, by the names of the keys.

        Of files only the name counts. The number of epochs counts where the learning rate decays over them.
        """
        found = {
            f"{section}.{key}": value
            for section, values in self.model_dump().items()
            for key, value in values.items()
        }
        for key in INDIFFERENT:
            found.pop(key, None)
        epochs = found.pop("training.epochs")
        if self.training.decay == "cosine":
            found["training.epochs, over which the learning rate decays,"] = epochs
        return found | {key: Path(found[key]).name for key in NAMED_FILES if found[key]}


def read_recipe(name: str) -> Config:
    """Read one of the book's own configurations, ``data/recipes/<name>.yml``.

    Raises
    ------
    ConfigError
        When there is none of that name.
    """
    check_choice("recipe", name, sorted(recipe.stem for recipe in RECIPES.glob("*.yml")), RECIPES)
    return read_config(RECIPES / f"{name}.yml")


def read_config(path: Path) -> Config:
    """Read a run's YAML file.

    Raises
    ------
    ConfigError
        When the file is missing or no YAML, or a key is unknown or of the wrong type; the key is named.
    """
    return parse_config(read_yaml(path) or {}, str(path))


def parse_config(values: Any, where: str) -> Config:
    """Make a configuration of nested dictionaries, as YAML and JSON give them."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _config_error(error, where) from error


def _config_error(error: ValidationError, where: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part not in ("drawn", "photos")) or "the file"
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"the key {key!r} is unknown", where=where, remedy="See dwclib/training/config.py for all keys."
        )
    value = brief(first["input"])
    return ConfigError(f"{key} = {value} cannot be used", where=where, remedy=f"{first['msg']}.")
