"""Tables of `rich` as HTML: the same texts, folded, and nothing that runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from layertap.core import display, tables
from layertap.core.display.html import display as show
from layertap.core.display.pictures import Picture
from layertap.core.plan import Branch, Ignored, Join, Plan, Refused
from layertap.errors import StoreError
from tests.support.displays import HOSTILE, Display


def table_of(count):
    table = tables.titled("Some rows", "The end.")
    table.add_column("name", overflow="fold")
    table.add_column("square", justify="right")
    for number in range(count):
        table.add_row(Text(f"row {number}"), f"{number**2:,}")
    return table


@pytest.mark.parametrize("count", [0, 1, 20, 21, 300])
def test_a_table_is_a_table(count):
    shown = Display(show(table_of(count)))
    assert shown.headers == ["name", "square"]
    assert shown.rows == [[f"row {n}", f"{n**2:,}"] for n in range(count)]
    assert [node.text for node in shown.page.all("caption")] == ["Some rows"]
    assert shown.of("lt-foot") == ["The end."]
    folded = [line for line in shown.lines if "lt-folded" in line.classes]
    assert folded == shown.lines[20:]
    summaries = [node.text for node in shown.page.all("summary")]
    assert summaries == {21: ["1 more row"], 300: ["280 more rows"]}.get(count, [])


def test_rows_beyond_2000_are_left_out_and_counted():
    shown = Display(show(table_of(3500)))
    assert len(shown.rows) == 2000
    assert shown.rows[-1][0] == "row 1999"
    assert shown.of("lt-foot") == ["Not shown: 1,500 more rows.", "The end."]


def test_numbers_stand_on_the_right_and_names_fold():
    (cells,) = Display(show(table_of(1))).cells
    assert [cell.classes for cell in cells] == [["lt-fold"], ["lt-right"]]


def test_styles_are_classes():
    table = tables.titled("t", Text("fine").append("\nbad", style="red"))
    tables.add_columns(table, "a", "b")
    name = Text("x").append("\n= y", style="dim")
    table.add_row(name, Text("3", style="bold yellow"), style="bold")
    table.add_section()
    shown = Display(show(table))
    assert shown.lines[0].classes == ["lt-bold", "lt-end"]
    spans = {node.text: node.classes for node in shown.page.all("span")}
    assert spans == {
        "\n= y": ["lt-dim"],
        "3": ["lt-yellow", "lt-bold"],
        "\nbad": ["lt-red"],
    }
    assert shown.rows == [["x\n= y", "3"]]
    # All colours that a table may have are in the sheet.
    sheet = (Path(display.__file__).parent / "templates/style.css").read_text()
    for name in ("red", "yellow", "green", "dim", "bold"):
        assert f".layertap .lt-{name} {{" in sheet


def test_the_style_is_scoped_and_knows_the_dark():
    style = Display(show(table_of(1))).page.all("style")[0].text
    selectors = [
        part.strip()
        for line in style.splitlines()
        if "{" in line and not line.startswith("@")
        for part in line.partition("{")[0].split(",")
    ]
    assert selectors
    assert all(".layertap" in selector for selector in selectors)
    assert "prefers-color-scheme: dark" in style
    assert "--jp-content-font-color1" in style


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_name_says_is_shown_as_text(text):
    branch = Branch("a/in/0", text, (None, 1), "float32")
    joins = (Join(text, text, 1, (None, 1), "float32", (branch,)),)
    plan = Plan(
        *(text, joins, (), (Refused(text, text),)),
        reduce=text,
        ignored=(Ignored(text, text, text),),
    )
    html = plan._repr_html_()
    shown = Display(html)
    safe = "".join(c if c.isprintable() else "\ufffd" for c in text)
    assert shown.rows[0][:2] == [safe, f"{safe}, axis 1"]
    assert shown.rows[1][1] == safe
    assert f"refused: {safe}: {safe}" in shown.of("lt-foot")[0]
    assert [node.text for node in shown.page.all("caption")] == [f"Plan of {safe}"]
    facts = Display(show(None, text, [("name", text), ("picture", Picture(text))]))
    assert facts.of("lt-heading") == [safe]
    assert facts.facts["name"].text == safe
    assert facts.pictures == [safe]


def test_a_very_long_text_is_cut():
    shown = Display(show(None, "h", [("long", "x" * 10**6)]))
    assert shown.facts["long"].text == "x" * 2000 + "…"


def test_markup_of_rich_is_text():
    table = tables.titled("[red]t[/]")
    table.add_column("[bold]c[/]")
    table.add_row("[link=x]cell[/link] :smile:")
    assert Display(show(table)).rows == [["[link=x]cell[/link] :smile:"]]


class Damaged(tables.Tabular):
    def table(self):
        raise StoreError("The <store> is damaged.")

    def __repr__(self):
        return "<damaged>"


def test_a_report_that_can_not_be_made_shows_its_error():
    shown = Display(Damaged()._repr_html_())
    assert shown.of("lt-heading") == ["<damaged>"]
    assert shown.facts["error"].text == "The <store> is damaged."


def test_the_templates_are_files_of_the_package():
    folder = Path(display.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"display.html", "style.css"}


def test_jinja_is_imported_for_the_first_display_only():
    code = (
        "import sys, layertap.results.saved\n"
        "from layertap.core.plan import Plan\n"
        "assert 'jinja2' not in sys.modules\n"
        "assert '<table>' in Plan('m', ())._repr_html_()\n"
        "assert 'jinja2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
