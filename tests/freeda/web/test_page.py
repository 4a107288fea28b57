"""The page in a real browser, with the toy models."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

import freeda
from freeda import Mark, MarkedImage
from freeda.segmentation.outlines import box_mask
from freeda.toyworld.make_examples import EXAMPLES
from tests.freeda.web.conftest import PATIENCE, Served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.xdist_group("web"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; `make test` installs it on Debian"),
]
CLASSES = "dog, puppy; lamp; gravel; sky"
expect.set_options(timeout=1000 * PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * PATIENCE
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, opened. Nothing but the server may be asked, and no script may fail."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    failed: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.set_default_timeout(1000 * PATIENCE)
    opened.goto(served.url)
    opened.wait_for_selector("body[data-ready]")
    yield opened
    opened.close()
    assert not failed
    assert {urlsplit(url).hostname for url in asked if not url.startswith("blob:")} == {"127.0.0.1"}


def choose(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)
    """Until it is there, and segmented if classes are typed."""
    expect(page.locator("#status")).to_contain_text(f"{path.name}, ")


def type_classes(page: Page, text: str) -> None:
    page.fill("#class-input", text)
    page.press("#class-input", "Enter")


def legend(page: Page) -> list[str]:
    """The classes found, once the image is segmented."""
    try:
        expect(page.locator("#status")).to_contain_text(" ms")
    except AssertionError as error:
        raise AssertionError(f"the page says: {page.locator('#error').inner_text()}") from error
    return page.locator("#legend .name").all_inner_texts()


def fetched(page: Page, button: str) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("link", name=button, exact=True).click()
    return Path(download.value.path()).read_bytes()


def test_an_image_is_segmented_into_the_classes_typed(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    type_classes(page, CLASSES)
    found = legend(page)
    expected = freeda.load("toy", device="cpu").segment(EXAMPLES / "scene-4.png", CLASSES)
    assert found == [item["label"] for item in expected.segments_info]
    assert page.locator(".chip .name").all_inner_texts() == ["dog, puppy", "lamp", "gravel", "sky"]
    labels = np.asarray(Image.open(io.BytesIO(fetched(page, "Labels"))))
    np.testing.assert_array_equal(labels, expected.labels)
    assert Image.open(io.BytesIO(fetched(page, "Overlay"))).size[0] >= 256
    assert json.loads(fetched(page, "JSON"))["classes"] == list(expected.classes)
    assert json.loads(fetched(page, "COCO"))["images"][0]["width"] == 256
    shown = shown_pixels(page)
    colors = 0.55 * expected.colors[expected.labels] + 0.45 * expected.image
    assert np.abs(shown[4:-4, 4:-4] - colors[4:-4, 4:-4]).max() <= 2


def places(page: Page, side: int) -> Callable[[float, float], tuple[float, float]]:
    """From a square image's pixels to the window's; the canvas is wider, and the image centred in it."""
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    scale = min(box["width"], box["height"]) / side
    left, top = box["x"] + (box["width"] - side * scale) / 2, box["y"] + (box["height"] - side * scale) / 2
    return lambda x, y: (left + x * scale, top + y * scale)


def drag(page: Page, *points: tuple[float, float]) -> None:
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=5)
    page.mouse.up()


def marked(name: str, scene: str, box: tuple[float, ...]) -> MarkedImage:
    pixels = np.asarray(Image.open(EXAMPLES / scene).convert("RGB"))
    return MarkedImage(scene, pixels, (Mark(name, box_mask(box, pixels.shape[:2])),))


def named(page: Page, name: str) -> None:
    expect(page.locator("#mark-name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator("#marks li").last).to_contain_text(f"{name} in ")


def test_what_is_marked_and_named_is_found_at_once(page: Page, served: Served) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    type_classes(page, "gravel; sky")
    legend(page)
    page.click("#tool-box")
    at = places(page, 256)
    drag(page, at(60.75, 39.75), at(120.25, 100.25))
    named(page, "gizmo")
    expect(page.locator("#legend .name", has_text="gizmo")).to_be_visible()
    assert page.locator(".chip .name").all_inner_texts() == ["gravel", "sky", "gizmo"]
    model = freeda.load("toy", device="cpu")
    box = (60.75, 39.75, 120.25 - 60.75, 100.25 - 39.75)
    taught = freeda.with_images(model, [marked("gizmo", "scene-4.png", box)])
    expected = taught.segment(EXAMPLES / "scene-4.png", "gravel; sky; gizmo")
    labels = np.asarray(Image.open(io.BytesIO(fetched(page, "Labels"))))
    np.testing.assert_array_equal(labels, expected.labels)
    untaught = model.segment(EXAMPLES / "scene-4.png", "gravel; sky; gizmo")
    assert (untaught.labels != labels).mean() > 0.01

    choose(page, EXAMPLES / "scene-6.png")  # what was marked serves other images too
    expect(page.locator("#marks li")).to_have_count(1)
    legend(page)
    labels = np.asarray(Image.open(io.BytesIO(fetched(page, "Labels"))))
    elsewhere = taught.segment(EXAMPLES / "scene-6.png", "gravel; sky; gizmo")
    np.testing.assert_array_equal(labels, elsewhere.labels)

    page.fill("#with-name", "with-gizmo")
    page.locator("#with-marks").get_by_role("button", name="Write").click()
    expect(page.locator("#with-written")).to_contain_text("1 of them new")
    written = freeda.PrototypeIndex.open(served.home / "indexes" / "with-gizmo", verify=True)
    assert written.source_counts()["photograph"] == 1
    assert "with-gizmo" in page.locator("#index option").all_inner_texts()
    assert "with-gizmo" in page.locator("#search-index option").all_inner_texts()
    expect(page.locator("#index")).to_have_value("with-gizmo")
    expect(page.locator("#marks li")).to_have_count(0)  # the new index knows it
    choose(page, EXAMPLES / "scene-4.png")
    assert "gizmo" in legend(page)


def test_a_mark_can_be_removed(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    type_classes(page, "gravel; sky; gizmo")
    before, unmarked = legend(page), fetched(page, "Labels")
    page.click("#tool-box")
    at = places(page, 256)
    drag(page, at(60, 40), at(120, 100))
    named(page, "gizmo")
    expect(page.locator("#marks li")).to_have_count(1)
    legend(page)
    assert fetched(page, "Labels") != unmarked
    page.get_by_role("button", name="Remove gizmo in scene-4.png").click()
    expect(page.locator("#canvas")).to_be_focused()
    expect(page.locator("#legend .name")).to_have_text(before)
    legend(page)
    assert fetched(page, "Labels") == unmarked


def test_a_stroke_and_a_box_by_keyboard_mark_as_well(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    page.click("#tool-stroke")
    at = places(page, 256)
    before = shown_pixels(page)
    drag(page, at(60, 60), at(90, 60), at(90, 90))
    named(page, "gizmo")
    expect(page.locator("#legend .name", has_text="gizmo")).to_be_visible()
    page.click("#tool-box")
    page.focus("#canvas")
    for key in ("ArrowLeft", "Enter", *("ArrowDown",) * 4, *("ArrowRight",) * 4, "Enter"):
        page.keyboard.press(key)
    named(page, "widget")
    expect(page.locator("#marks li")).to_have_count(2)
    expect(page.locator("#canvas")).to_be_focused()
    legend(page)
    for key in ("Enter", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("alert")).to_contain_text("two corners in different rows and columns")
    assert np.abs(shown_pixels(page) - before)[55:65, 60:90].mean() > 10
    page.click("#tool-explain")
    page.mouse.click(*places(page, 256)(100.5, 70.5))
    expect(page.locator("#why-pixel")).to_contain_text("Pixel 100, 70 ")


def test_a_mark_without_a_name_or_by_a_click_is_none(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    page.click("#tool-box")
    at = places(page, 256)
    page.mouse.click(*at(100, 70))
    expect(page.locator("#name-mark")).to_be_hidden()
    drag(page, at(60, 60), at(90, 90))
    page.press("#mark-name", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("say what you marked")
    page.fill("#mark-name", "owl; cat")
    page.press("#mark-name", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("a mark has one name")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#name-mark")).to_be_hidden()
    expect(page.locator("#marks li")).to_have_count(0)
    page.select_option("#method", "flowseg")
    expect(page.locator("#tool-box")).to_be_disabled()
    expect(page.locator("#marks-hint")).to_contain_text("choose freeda")


def shown_pixels(page: Page) -> np.ndarray:
    """(H, W, 3): what the canvas holds."""
    drawn = page.locator("#canvas").evaluate("(canvas) => canvas.toDataURL('image/png')")
    content = base64.b64decode(drawn.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)


def test_a_click_shows_why(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    type_classes(page, CLASSES)
    legend(page)
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    # The canvas is as wide as its column, and the square picture is centred in it.
    scale = min(box["width"], box["height"]) / 256
    left = box["x"] + (box["width"] - 256 * scale) / 2
    page.mouse.click(left + 100.5 * scale, box["y"] + 70.5 * scale)
    expect(page.locator("#why-pixel")).to_contain_text("Pixel 100, 70 ")
    result = freeda.load("toy", device="cpu").segment(EXAMPLES / "scene-4.png", CLASSES)
    evidence = result.explain(100, 70)
    cells = page.locator("#candidates tbody td:first-child").all_inner_texts()
    assert cells == [item.name for item in evidence.candidates]
    captions = page.locator("#votes .hint").all_inner_texts()
    assert captions == [vote.caption for vote in evidence.votes]
    picture = page.locator("#votes img").first
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("(image) => image.naturalWidth") == 64


def test_classes_change_the_picture_at_once(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    type_classes(page, "gravel; sky")
    assert legend(page) == ["gravel", "sky"] or legend(page) == ["gravel"]
    type_classes(page, "lamp")
    expect(page.locator("#legend .name", has_text="lamp")).to_be_visible()
    page.get_by_role("button", name="Remove lamp").click()
    expect(page.locator("#legend .name", has_text="lamp")).to_have_count(0)
    page.check("#background")
    expect(page.locator("#legend .name", has_text="background")).to_be_visible()
    page.select_option("#method", "diffsegmenter")
    expect(page.locator("#index")).to_be_disabled()
    expect(page.locator("#status")).to_contain_text(" ms")


def test_a_method_that_tells_things_apart_is_shown(page: Page) -> None:
    choose(page, EXAMPLES / "scene-6.png")
    page.select_option("#method", "odise")
    type_classes(page, "pig; car; rabbit; brick")
    legend(page)
    result = freeda.load(method="odise", device="cpu").segment(
        EXAMPLES / "scene-6.png", "pig; car; rabbit; brick"
    )
    expect(page.locator("#legend li")).to_have_count(len(result.segments_info))
    told = json.loads(fetched(page, "JSON"))
    assert [item["label"] for item in told["panoptic"]] == [item.name for item in result.segments]
    counts = Counter(item.name for item in result.segments if item.is_thing)
    names = [item["label"] for item in result.segments_info]
    shown = [f"{name} × {counts[name]}" if counts[name] > 1 else name for name in names]
    assert legend(page) == shown


def test_names_of_a_class_that_is_there_become_its_synonyms(page: Page) -> None:
    type_classes(page, "cat; dog")
    type_classes(page, "Kitten, CAT; dog; dog, puppy; ; bird")
    assert page.locator(".chip .name").all_inner_texts() == ["cat, Kitten", "dog, puppy", "bird"]


def test_everything_works_by_keyboard_alone(page: Page) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(40):
            if page.locator(f"{selector}:focus").count():
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} cannot be reached")

    tab_to("#examples button:nth-child(4)")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("scene-4.png")
    offered = {"dog", "gravel", "lamp"}
    expect(page.locator(".chip .name", has_text="lamp")).to_be_visible()
    assert set(page.locator(".chip .name").all_inner_texts()) > offered
    expect(page.locator("#legend .name", has_text="gravel")).to_be_visible()
    chips = page.locator(".chip").count()
    tab_to("#class-input")
    page.keyboard.type("pebbles;zebra")
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_have_count(chips + 2)
    page.keyboard.press("Backspace")
    expect(page.locator(".chip")).to_have_count(chips + 1)
    expect(page.locator("#status")).to_contain_text(" ms")
    page.locator("#tab-segment").focus()
    tab_to("#canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#why-pixel")).to_contain_text("Pixel 134, 128 ")
    page.locator("#tab-segment").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#view-index")).to_be_visible()
    tab_to("#query")
    page.keyboard.type("cat")
    page.keyboard.press("Enter")
    expect(page.locator("#prototypes li").first).to_contain_text("cat")


def test_bad_input_is_a_sentence_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    (tmp_path / "<b>text.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "<b>text.png")
    error = page.get_by_role("alert")
    expect(error).to_contain_text("'<b>text.png' is no readable image: expected JPEG, PNG")
    choose(page, EXAMPLES / "scene-4.png")
    expect(error).to_be_hidden()
    page.check("#background")
    type_classes(page, "background")
    expect(error).to_contain_text("class 'background' is named, but a background was asked for as well")
    page.get_by_role("button", name="Remove background").click()
    expect(error).to_be_hidden()
    evil = "<img src=x onerror=alert(1)>"
    type_classes(page, evil)
    expect(page.locator(".chip .name", has_text=evil)).to_be_visible()
    assert page.locator(".chip img").count() == 0


def test_an_index_is_searched_and_written_without_what_is_marked(page: Page, served: Served) -> None:
    page.click("#tab-index")
    expect(page.locator("#summary")).to_contain_text("prototypes")
    page.locator("#frequent button", has_text=re.compile(r"^wood ")).click()
    cards = page.locator("#prototypes li")
    expect(cards.first).to_contain_text("wood")
    assert cards.count() == freeda.PrototypeIndex.open("toy").noun_counts()["wood"]
    cards.first.get_by_role("button").click()
    expect(page.locator("#prototype-text")).to_contain_text("the noun's mask covers")
    expect(page.locator("#neighbors li")).to_have_count(12)
    cards.nth(1).get_by_role("checkbox").check()
    cards.nth(3).get_by_role("checkbox").check()
    expect(page.locator("#marked")).to_have_text("2 prototypes marked.")
    page.fill("#new-name", "from-the-page")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#written")).to_contain_text("from-the-page")
    written = freeda.PrototypeIndex.open(served.home / "indexes" / "from-the-page", verify=True)
    assert len(written) == len(freeda.PrototypeIndex.open("toy")) - 2
    page.fill("#query", "something with wings")
    page.press("#query", "Enter")
    expect(page.locator("#found")).to_contain_text("nearest by text")
    page.click("#tab-segment")
    assert "from-the-page" in page.locator("#index option").all_inner_texts()


def test_a_narrow_screen_needs_no_scrolling_aside(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    choose(page, EXAMPLES / "scene-5.png")
    type_classes(page, "owl; car; water; a class of a rather long name that has to be broken somewhere")
    legend(page)
    for tab, filled in (("#tab-segment", "#legend li"), ("#tab-index", "#frequent button")):
        page.click(tab)
        page.locator(filled).first.wait_for()
        wide = page.locator("html").evaluate("(root) => root.scrollWidth - root.clientWidth")
        assert wide <= 0


def test_two_tabs_do_not_disturb_each_other(page: Page, browser: Browser, served: Served) -> None:
    other = browser.new_page()
    other.goto(served.url)
    other.wait_for_selector("body[data-ready]")
    choose(page, EXAMPLES / "scene-4.png")
    choose(other, EXAMPLES / "scene-5.png")
    type_classes(page, "dog; gravel")
    type_classes(other, "owl; water")
    assert {"gravel"} <= set(legend(page)) <= {"dog", "gravel"}
    assert {"water"} <= set(legend(other)) <= {"owl", "water"}
    other.close()


def test_a_request_that_the_browser_drops_is_made_again(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    page.route("**/api/segment", lambda route: route.abort("connectionreset"), times=1)
    type_classes(page, "gravel; sky")
    assert "gravel" in legend(page)


def test_an_index_is_not_written_twice(page: Page, served: Served) -> None:
    """Where the first answer is lost, the second request would find the name taken."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.click("#tab-index")
    page.locator("#frequent button", has_text=re.compile(r"^wood ")).click()
    page.locator("#prototypes li").first.get_by_role("checkbox").check()
    page.fill("#new-name", "dropped")
    page.route("**/without", lambda route: route.abort("connectionreset"))
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_role("alert")).to_contain_text("is `freeda serve` still running?")
    assert len([url for url in asked if url.endswith("/without")]) == 1
    assert not (served.home / "indexes" / "dropped").exists()


def test_a_server_that_is_gone_is_told(page: Page) -> None:
    choose(page, EXAMPLES / "scene-4.png")
    page.route("**/api/segment", lambda route: route.abort())
    type_classes(page, "dog")
    expect(page.get_by_role("alert")).to_contain_text("is `freeda serve` still running?")
