"""What is preferred to what: records, their validation, files and public formats."""

from omnipref.preferences.records import RAW, Case, Comparison, Message, Part, Preference, pair, ranked, unpaired

__all__ = ["RAW", "Case", "Comparison", "Message", "Part", "Preference", "pair", "ranked", "unpaired"]
