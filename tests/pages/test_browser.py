"""Pages in a real browser: nothing is requested, nothing runs, all can be read."""

import numpy as np
import pytest

import layertap
from layertap.core.plan import Branch, Join, Plan
from layertap.pages.facts import page_facts
from tests.pages.test_facts import made
from tests.pages.test_report import HOSTILE
from tests.pages.test_training import steps_of
from tests.support.export_stores import IDS, ROWS
from tests.support.map_stores import maps_alone

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a store; all that the browser complains of is kept."""
    complaints, requests = [], []

    def open_page(saved, width=1400, scheme="light"):
        path = layertap.report(saved, tmp_path / "page.html", overwrite=True)
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


def test_numbers_on_the_page_are_those_of_the_store(opened, tmp_path):
    saved, _ = made(tmp_path, labels=np.arange(ROWS) % 3, ids=IDS)
    page = opened(saved)
    facts = page_facts(saved)
    for value, shown in zip(facts.values, page.locator(".value").all(), strict=True):
        total = value.statistics.total
        found = dict(
            zip(
                shown.locator("dt").all_inner_texts(),
                shown.locator("dd").all_inner_texts(),
                strict=True,
            )
        )
        assert float(found["mean"]) == pytest.approx(total.mean, rel=1e-3)
        assert float(found["deviation"]) == pytest.approx(total.deviation, rel=1e-3)
        assert found["dead units"] == f"{total.dead} of {total.units}"
        titles = shown.locator("rect title").all_text_contents()
        counts = [int(title.split(": ")[1].split()[0]) for title in titles]
        assert sum(counts) == value.histogram.counts.sum()
        words = shown.locator("circle title").all_text_contents()
        assert words == [f"{name}, label {row % 3}" for row, name in enumerate(IDS)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_cut_off_and_all_is_legible(opened, tmp_path, width, scheme):
    saved, _ = made(tmp_path, labels=np.arange(ROWS) % 12, ids=IDS)
    (tmp_path / "before").mkdir()
    before, _ = made(tmp_path / "before", seed=1)
    page = opened({1: before, 2: saved}, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate(
        """() => {
            const parse = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const level = color => parse(color).map(part => {
                part /= 255;
                return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
            }).reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
            const back = level(getComputedStyle(document.body).backgroundColor);
            const texts = "h1, h3, legend, label, dd, dt, .note, code, small";
            return [...document.querySelectorAll(texts)].map(shown => {
                const front = level(getComputedStyle(shown).color);
                const [high, low] = [Math.max(front, back), Math.min(front, back)];
                return (high + 0.05) / (low + 0.05);
            });
        }"""
    )
    # What the guidelines for accessible content ask for.
    assert min(light) >= 4.5
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") is (scheme == "light")


def test_the_keyboard_opens_and_closes_values(opened, tmp_path):
    saved, _ = made(tmp_path)
    page = opened(saved)
    first = page.locator("details").first
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert first.evaluate("shown => shown.open")
    page.keyboard.press("Enter")
    assert not first.evaluate("shown => shown.open")


def test_arrow_keys_move_through_the_steps_of_a_training(opened, tmp_path):
    stores, _ = steps_of(tmp_path, [5, 10, 15])
    page = opened(stores)
    shown = page.locator(".frame:visible h3")
    assert shown.all_inner_texts() == ["step 15"]
    page.keyboard.press("Tab")
    for key, step in (("ArrowLeft", 10), ("ArrowLeft", 5), ("ArrowRight", 10)):
        page.keyboard.press(key)
        assert shown.all_inner_texts() == [f"step {step}"]
        found = page.locator(".frame:visible dd").all_inner_texts()
        total = stores[step].statistics["fusion/in/0"].total
        assert found[1:3] == [f"{total.mean:.4g}", f"{total.deviation:.4g}"]


def test_nothing_that_a_store_says_runs(opened, tmp_path):
    saved, _ = made(
        tmp_path,
        ids=[f"{HOSTILE[row % 4]}{row}" for row in range(ROWS)],
        labels=np.arange(ROWS) % 4,
        class_names=HOSTILE[:4],
    )
    page = opened(saved)
    assert page.locator("script, iframe, h1").count() == 1
    assert HOSTILE[0] in page.locator(".legend").inner_text()


def test_pictures_have_names_for_those_who_do_not_see_them(opened, tmp_path):
    saved, _ = made(tmp_path)
    page = opened(saved)
    for picture in page.locator("svg:not([aria-hidden])").all():
        assert picture.get_attribute("role") == "img"
        assert picture.get_attribute("aria-label")


@pytest.mark.parametrize("width", [1400, 400])
def test_pictures_of_rows_are_shown_at_any_width(opened, tmp_path, width):
    page = opened(maps_alone(tmp_path, labels=np.arange(50) % 3), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.locator(".rows img").all()
    assert len(pictures) == 8
    for picture in pictures:
        assert picture.get_attribute("alt").startswith("Grad-CAM of conv0/out in row ")
        assert picture.evaluate("shown => shown.complete && shown.naturalWidth > 0")
        assert picture.bounding_box()["height"] == 96
    pictures[-1].scroll_into_view_if_needed()
    box = pictures[-1].bounding_box()
    assert box["x"] + box["width"] <= width
    assert page.locator(".rows thead th").count() == 8


@pytest.mark.parametrize("width", [1400, 400])
def test_long_names_leave_room_for_branches(opened, tmp_path, width):
    path = "/".join(f"stage_{n}_of_the_backbone" for n in range(6))
    branches = tuple(
        Branch(f"{path}/in/{n}", f"{path}/{n}", (None, 3), "float32") for n in range(12)
    )
    join = Join(path, "concatenate", 1, (None, 36), "float32", branches)
    page = opened(made(tmp_path, Plan("long", (join,)))[0], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [name.bounding_box() for name in page.locator(".flow li").all()]
    assert len(boxes) == 12
    assert min(box["width"] for box in boxes) > 80
    drawing = page.locator(".flow").bounding_box()
    assert min(box["y"] for box in boxes) > drawing["y"] - 30
    ends = [box["y"] + box["height"] for box in boxes[:-1]]
    starts = [box["y"] for box in boxes[1:]]
    assert max(np.subtract(ends, starts)) < 10
    assert page.locator(".flow svg").bounding_box()["width"] > 40
