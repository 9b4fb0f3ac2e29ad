"""Small worlds with known truth: samplers, language, judges, probes and trained base models."""

from omnipref.worlds.base_model import base_model_path, load
from omnipref.worlds.language import (
    DESCRIBE,
    best_and_worst,
    caption_of,
    careless_caption,
    hallucinated,
    mentioned,
    oracle_judge,
    question_about,
    says_yes,
    tempting,
    truthful_caption,
    well_formed,
)
from omnipref.worlds.pictures import COMPANION_OF, KINDS, Scene, Thing, draw, draw_all, sample_scenes
from omnipref.worlds.probing import SPLITS, Question, pope_questions
from omnipref.worlds.world import Picture, alignment_pictures, test_pictures

__all__ = [
    "COMPANION_OF",
    "DESCRIBE",
    "KINDS",
    "SPLITS",
    "Picture",
    "Question",
    "Scene",
    "Thing",
    "alignment_pictures",
    "base_model_path",
    "best_and_worst",
    "caption_of",
    "careless_caption",
    "draw",
    "draw_all",
    "hallucinated",
    "load",
    "mentioned",
    "oracle_judge",
    "pope_questions",
    "question_about",
    "sample_scenes",
    "says_yes",
    "tempting",
    "test_pictures",
    "truthful_caption",
    "well_formed",
]
