"""Where do preferences come from: builders that perturb, sample, judge, retrieve and filter."""

from omnipref.build.builder import Builder, Built, each
from omnipref.build.curriculum import ranked_to_pairs
from omnipref.build.expressions import builder_of, builders
from omnipref.build.files import run
from omnipref.build.infill import continued, dropout_ntp, instructed, masked_infill
from omnipref.build.instructions import inter_instructions, intra_instructions
from omnipref.build.key_content import key_phrases, remove_key_content
from omnipref.build.labels import flip_labels
from omnipref.build.own_samples import own_samples
from omnipref.build.pictures import crop, flip, occlude, random_image, same_image
from omnipref.build.rationales import rationale_case, write_rationale
from omnipref.build.retrieval import similar_image, vision_features
from omnipref.build.samples import best_vs_worst, from_samples, group, judge, pairs, sample
from omnipref.build.scored_lists import best_worst_of_n
from omnipref.build.shares import every_nth
from omnipref.build.texts import mismatched, remove_words, word_swap
from omnipref.build.trees import tree_expand

__all__ = [
    "Builder",
    "Built",
    "best_vs_worst",
    "best_worst_of_n",
    "builder_of",
    "builders",
    "continued",
    "crop",
    "dropout_ntp",
    "each",
    "every_nth",
    "flip",
    "flip_labels",
    "from_samples",
    "group",
    "instructed",
    "inter_instructions",
    "intra_instructions",
    "judge",
    "key_phrases",
    "masked_infill",
    "mismatched",
    "occlude",
    "own_samples",
    "pairs",
    "random_image",
    "ranked_to_pairs",
    "rationale_case",
    "remove_key_content",
    "remove_words",
    "run",
    "same_image",
    "sample",
    "similar_image",
    "tree_expand",
    "vision_features",
    "word_swap",
    "write_rationale",
]
