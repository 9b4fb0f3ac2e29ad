"""Public shapes of preference rows, one small converter each; a module joins by having a tuple `FORMATS`."""

from omnipref.preferences.formats.format import Format, Unlabelled, detect, format_named, formats
from omnipref.preferences.formats.native import from_json, to_json

__all__ = ["Format", "Unlabelled", "detect", "format_named", "formats", "from_json", "to_json"]
