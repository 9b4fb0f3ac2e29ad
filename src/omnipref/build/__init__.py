"""Where do preferences come from: builders that perturb, sample, judge, retrieve and filter."""

from omnipref.build.builder import Builder, Built, each
from omnipref.build.expressions import builder_of, builders
from omnipref.build.files import run
from omnipref.build.infill import continued, dropout_ntp, instructed, masked_infill
from omnipref.build.pictures import crop, flip, occlude, random_image, same_image
from omnipref.build.retrieval import similar_image, vision_features
from omnipref.build.samples import best_vs_worst, from_samples, judge, pairs, sample
from omnipref.build.texts import mismatched, remove_words, word_swap

__all__ = [
    "Builder",
    "Built",
    "best_vs_worst",
    "builder_of",
    "builders",
    "continued",
    "crop",
    "dropout_ntp",
    "each",
    "flip",
    "from_samples",
    "instructed",
    "judge",
    "masked_infill",
    "mismatched",
    "occlude",
    "pairs",
    "random_image",
    "remove_words",
    "run",
    "same_image",
    "sample",
    "similar_image",
    "vision_features",
    "word_swap",
]
