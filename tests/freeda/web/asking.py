"""Questions to the page's server, as its page asks them."""

from __future__ import annotations

from typing import Any

import httpx

from freeda.toyworld.make_examples import EXAMPLES

SCENE = EXAMPLES / "scene-4.png"
CLASSES = ["dog, puppy", "lamp", "gravel", "sky"]


def upload(client: httpx.Client, content: bytes = SCENE.read_bytes(), name: str = "scene.png") -> str:
    told = client.post("/api/images", params={"name": name}, content=content)
    assert told.status_code == 200, told.text
    return told.json()["image"]


def ask(client: httpx.Client, image: str, classes: list[str] = CLASSES, **changes: Any) -> httpx.Response:
    asked = {"image": image, "classes": classes, "method": "freeda", "index": "toy", "background": False}
    return client.post("/api/segment", json={**asked, **changes})
