"""Captions: read, tagged, cut into shards; taken from COCO, composed, or selected."""
