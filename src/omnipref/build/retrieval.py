"""Pictures that look alike: pooled features of a model's own vision tower, and negatives by nearest neighbour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnipref.build.builder import Builder, Step, case_of, each_step
from omnipref.build.pictures import PoolPicture, add_negative, pictures_of, pool_pictures
from omnipref.errors import DataError
from omnipref.preferences import Part, Preference
from omnipref.preferences.media import load_image, media_key

if TYPE_CHECKING:
    from torch import Tensor

Features = Callable[[Sequence[Any]], "Tensor"]
"""From M pictures, as records hold them, to `[M, D]` features."""


def vision_features(model: Any, processor: Any, batch_size: int = 32, progress: bool = True) -> Features:
    """The mean over a picture's tokens of what `get_image_features` of a `transformers` model gives.

    Args:
        model: any model with that method: vision-language models, CLIP, SigLIP.
        processor: its processor.
        batch_size: pictures at once.
        progress: show a progress bar.
    """
    import torch
    from tqdm import tqdm

    from omnipref.policies.autoregressive.media import process
    from omnipref.policies.reference import evaluating

    def one(value: Any) -> dict[str, Tensor]:
        item = process(processor, [Part("image", value)])[0]
        return {name: tensor.to(model.device) for name, tensor in item.features.items()}

    def features(values: Sequence[Any]) -> Tensor:
        found = []
        starts = range(0, len(values), batch_size)
        with evaluating(model), torch.no_grad():
            for start in tqdm(starts, desc="picture features", disable=not progress or len(starts) < 2):
                found += _pooled(model, [one(value) for value in values[start : start + batch_size]])
        return torch.stack(found).float().cpu()

    return features


def _pooled(model: Any, items: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """Mean features of some pictures; those of equal shape go through the tower together."""
    import torch

    groups: dict[tuple, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(tuple(value.shape[1:] for value in item.values()), []).append(place)
    pooled: dict[int, Tensor] = {}
    for group in groups.values():
        joined = {name: torch.cat([items[place][name] for place in group]) for name in items[group[0]]}
        found = model.get_image_features(**joined, return_dict=True).pooler_output
        pooled |= {place: value.reshape(-1, value.shape[-1]).mean(0) for place, value in zip(group, found, strict=True)}
    return [pooled[place] for place in range(len(items))]


@dataclass(frozen=True, eq=False)
class Index:
    """Pictures and their unit features; build it with `index_of`.

    Args:
        pictures: M distinct pictures.
        features: `[M, D]`, of length 1, after the pool's mean was taken off.
        embed: from further pictures to such features.
    """

    pictures: Sequence[PoolPicture]
    features: Tensor
    embed: Features

    def near(self, values: Sequence[Any], k: int, upper: float) -> list[list[tuple[PoolPicture, float]]]:
        """For each picture its `k` nearest in the pool and their cosines, nearest first.

        Never the picture itself (by content), nor one whose cosine exceeds `upper`: a near duplicate.
        """
        places = {picture.key: place for place, picture in enumerate(self.pictures)}
        keys = [media_key(value) for value in values]
        new = [value for value, key in zip(values, keys, strict=True) if key not in places]
        embedded = iter(self.embed(new)) if new else iter(())
        found = []
        for key in keys:
            cosine_M = self.features @ (self.features[places[key]] if key in places else next(embedded))
            order = cosine_M.argsort(descending=True, stable=True).tolist()
            allowed = (m for m in order if self.pictures[m].key != key and cosine_M[m] <= upper)
            found.append([(self.pictures[m], float(cosine_M[m])) for m, _ in zip(allowed, range(k), strict=False)])
        return found


def _readable(value: Any) -> bool:
    try:
        load_image(value)
    except DataError:
        return False
    return True


def index_of(pool: Sequence[Preference], features: Features) -> Index:
    """Embed the distinct pictures of all contexts.

    Centring matters: raw pooled features of one tower share a large mean, and all their cosines are near 1.
    """
    from torch.nn.functional import normalize

    pictures = pool_pictures(pool)
    if not pictures:
        raise DataError("no picture in any record", "at least two", cure="use text builders for these records")
    try:
        raw_MD = features([picture.value for picture in pictures])
    except DataError:
        # A picture that cannot be read is nobody's neighbour; the record that shows it is dropped when its turn comes.
        pictures = [picture for picture in pictures if _readable(picture.value)]
        raw_MD = features([picture.value for picture in pictures])
    mean_D = raw_MD.mean(0)
    return Index(
        pictures, normalize(raw_MD - mean_D, dim=1), lambda values: normalize(features(values) - mean_D, dim=1)
    )


def similar_image(
    features: Features,
    k: int = 10,
    upper: float = 0.98,
    accept: Callable[[Preference, Any], bool] | None = None,
    role: str = "chosen",
) -> Builder:
    """The most similar other picture of the pool as `<role>@negative_image`.

    Args:
        features: such as `vision_features(model, processor)`.
        k: neighbours to try.
        upper: cosine (of centred features) above which a picture is a duplicate, for which the answer is true too.
        accept: `(record, picture) -> bool`, False where the answer is true of the neighbour too.
        role: the case that is repeated.

    Records without an accepted neighbour are dropped with the reason.

    Source: arXiv 2502.13146, retrieval step.
    """

    def prepare(pool: Sequence[Preference]) -> Step:
        index = index_of(pool, features)

        def change(record: Preference) -> list[Preference]:
            near = index.near(pictures_of(case_of(record, role)), k, upper)
            taken = [_first(record, candidates, accept) for candidates in near]
            facts = {
                "picture_of_record": [picture.record for picture, _ in taken],
                "cosine": [round(cosine, 6) for _, cosine in taken],
            }
            return [add_negative(record, role, [picture.value for picture, _ in taken], "similar_image", **facts)]

        return each_step(change)

    return Builder("similar_image", prepare)


def _first(
    record: Preference,
    candidates: Sequence[tuple[PoolPicture, float]],
    accept: Callable[[Preference, Any], bool] | None,
) -> tuple[PoolPicture, float]:
    for picture, cosine in candidates:
        if accept is None or accept(record, picture.value):
            return picture, cosine
    raise DataError(
        f"{len(candidates)} neighbours, none accepted", "a similar picture", cure="raise k or upper, or add pictures"
    )
