"""The chat page in headless Chromium."""

from __future__ import annotations

import re
import shutil

import pytest

from dovetail_ort_runtime.options import GenerationOptions

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser, and is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the PATH to show the page in")
KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # In a container there is often no user to build a sandbox for.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """`open_page(url, ...)`: the page; at the end nothing may have gone wrong in it, nor have come from elsewhere."""
    contexts, complaints, hosts = [], [], set()

    def show(url, expect_errors=False, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if not expect_errors:
            page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: hosts.add(re.match(r"https?://[^/]*", request.url)[0]))
        page.goto(url)
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(hosts) == 1


@pytest.fixture
def page(open_page, served):
    return open_page(served.url)


def send(page, text):
    page.locator("#question").fill(text)
    page.keyboard.press("Enter")


def finished(page, num_answers=1):
    """The text of the newest answer, as soon as it is whole."""
    answers = page.locator("article.answer:not(.running)")
    sync_api.expect(answers).to_have_count(num_answers, timeout=30_000)
    return answers.last.locator(".text").text_content()


def test_an_answer_is_the_model_s_own_and_its_figures_are_shown(page, model):
    sync_api.expect(page.locator("#model")).to_have_text("tiny")
    send(page, "What holds the pins?")
    options = GenerationOptions(max_new_tokens=400)
    assert finished(page) == model.generate([{"role": "user", "content": "What holds the pins?"}], options).text
    figures = page.locator("article.answer .figures")
    sync_api.expect(figures).to_have_text(
        re.compile(r"\d+ tokens · \d+ tokens/s · \d+ accepted drafts · .*first after")
    )


def test_drafted_tokens_are_tinted_on_demand(open_page, foreseen):
    page = open_page(foreseen.url)
    page.locator("summary").click()
    page.locator("#max-tokens").fill("80")
    send(page, "dovetail dovetail dovetail dovetail dovetail")
    finished(page)
    drafted = page.locator("article.answer .drafted")
    assert drafted.count() > 0
    accepted = int(re.search(r"(\d+) accepted", page.locator(".figures").last.text_content())[1])
    assert accepted >= drafted.count()

    def ground():
        return drafted.first.evaluate("element => getComputedStyle(element).backgroundColor")

    untinted = ground()
    page.get_by_role("switch", name="Tint drafted tokens").check()
    assert ground() != untinted
    page.get_by_role("switch", name="Tint drafted tokens").uncheck()
    assert ground() == untinted


def test_the_next_turn_goes_on_with_the_conversation(page, model):
    page.locator("summary").click()
    page.locator("#max-tokens").fill("12")
    page.locator("#system").fill("Be short.")
    send(page, "What holds the pins?")
    first = finished(page)
    send(page, "And the tails?")
    conversation = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What holds the pins?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And the tails?"},
    ]
    assert finished(page, 2) == model.generate(conversation, GenerationOptions(max_new_tokens=12)).text
    sync_api.expect(page.locator(".figures").last).to_have_text(
        re.compile(r"\d+ of \d+ prompt tokens reused · cut at the limit")
    )
    page.get_by_role("button", name="New chat").click()
    sync_api.expect(page.locator("article")).to_have_count(0)


@pytest.mark.parametrize("by", ["button", "key"])
def test_stopping_keeps_what_came_and_frees_the_model(open_page, serving, gated, gate, until, by):
    with serving(gated) as served:
        page = open_page(served.url)
        gate.open(6)
        send(page, "What holds the pins?")
        until(lambda: gate.num_rounds == 7)
        sync_api.expect(page.locator("article.answer .text")).not_to_be_empty()
        sync_api.expect(page.locator("#log")).to_have_attribute("aria-busy", "true")
        page.get_by_role("button", name="Stop").click() if by == "button" else page.keyboard.press("Escape")
        assert finished(page)
        sync_api.expect(page.locator("article.answer .figures")).to_have_text(re.compile("stopped$"))
        sync_api.expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
        gate.open()
        assert served.chat().status_code == 200
        # The round that was running, and those of 8 tokens: one comes with the prompt, after the last no draft fits.
        assert gate.num_rounds == 7 + 6


def test_text_that_looks_like_html_stays_text(page):
    send(page, "<img src=x onerror=alert(1)>")
    finished(page)
    assert page.locator("article.question .text").text_content() == "<img src=x onerror=alert(1)>"
    assert page.locator("main img").count() == 0


def test_shift_enter_breaks_the_line_and_an_empty_message_is_not_sent(page):
    page.locator("#question").press("Enter")
    page.locator("#question").press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.locator("#question").input_value() == "one\ntwo"
    assert page.locator("article").count() == 0


def test_the_server_s_refusal_is_shown_and_the_conversation_goes_on(open_page, model, serving):
    with serving(model, max_prompt_tokens=60) as served:
        page = open_page(served.url, expect_errors=True)
        send(page, "a long question " * 20)
        sync_api.expect(page.get_by_role("alert")).to_contain_text("the prompt must have 60 tokens or fewer")
        send(page, "What holds the pins?")
        assert finished(page, 2)
        assert page.get_by_role("alert").count() == 1


def test_the_key_is_asked_for_where_the_server_wants_one(open_page, model, serving):
    with serving(model, api_key=KEY) as served:
        page = open_page(served.url, expect_errors=True)
        page.get_by_label("API key", exact=True).fill("another")
        page.keyboard.press("Enter")
        page.get_by_label("API key", exact=True).fill(KEY)
        page.get_by_role("button", name="Use it").click()
        sync_api.expect(page.locator("#model")).to_have_text("tiny")
        send(page, "What holds the pins?")
        assert finished(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(open_page, foreseen, scheme):
    page = open_page(foreseen.url, color_scheme=scheme)
    send(page, "dovetail dovetail dovetail dovetail dovetail")
    finished(page)
    page.get_by_role("switch", name="Tint drafted tokens").check()
    for selector in ("body", "#model", ".figures", "article.question .text", ".drafted", "#send", "#keys"):
        ratio = page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, selector  # WCAG 2.2, level AA


def test_a_phone_needs_no_sideways_scrolling(open_page, served):
    page = open_page(served.url, viewport={"width": 360, "height": 640})
    send(page, "w" * 200)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# The contrast ratio of WCAG 2.2 between an element's text and the nearest ground that is painted.
CONTRAST = """
element => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => numbers(colour).slice(0, 3)
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  let ground = element;
  const painted = (node) => (numbers(getComputedStyle(node).backgroundColor)[3] ?? 1) === 1;
  while (!painted(ground)) ground = ground.parentElement;
  const lights = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map(luminance);
  return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
}
"""
