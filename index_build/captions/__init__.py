"""Captions for a build: taken from COCO, composed from class names, or selected from very many."""

from __future__ import annotations

from index_build.captions.coco import captions_from_coco
from index_build.captions.compose import compose_captions
from index_build.captions.selection import Selection, chosen_captions, load_sentence_model, select_captions
from index_build.captions.writing import write_captions

__all__ = [
    "Selection",
    "captions_from_coco",
    "chosen_captions",
    "compose_captions",
    "load_sentence_model",
    "select_captions",
    "write_captions",
]
