"""What is preferred to what: records, their validation, files and public formats."""

from omnipref.preferences.checks import case_key, check, preference_key
from omnipref.preferences.files import convert_file, inspect_file
from omnipref.preferences.formats import Format, detect, formats, from_json, to_json
from omnipref.preferences.inspect import Inspection, inspect
from omnipref.preferences.media import image_size, load_audio, load_image, load_video, media_key
from omnipref.preferences.pairs import split, to_pairs, to_ranked, to_unpaired
from omnipref.preferences.read import Reading, read
from omnipref.preferences.records import RAW, Case, Comparison, Message, Part, Preference, pair, ranked, unpaired
from omnipref.preferences.render import render
from omnipref.preferences.report import Report
from omnipref.preferences.write import to_trl, write_jsonl, write_trl

__all__ = [
    "RAW",
    "Case",
    "Comparison",
    "Format",
    "Inspection",
    "Message",
    "Part",
    "Preference",
    "Reading",
    "Report",
    "case_key",
    "check",
    "convert_file",
    "detect",
    "formats",
    "from_json",
    "image_size",
    "inspect",
    "inspect_file",
    "load_audio",
    "load_image",
    "load_video",
    "media_key",
    "pair",
    "preference_key",
    "ranked",
    "read",
    "render",
    "split",
    "to_json",
    "to_pairs",
    "to_ranked",
    "to_trl",
    "to_unpaired",
    "unpaired",
    "write_jsonl",
    "write_trl",
]
