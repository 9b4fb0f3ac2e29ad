"""Responses with a style and a content: authors differ in both, and only one of them matters."""
