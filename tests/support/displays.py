"""Reads displays of notebooks: their tables, facts and pictures, as a browser would."""

import re
from html.parser import HTMLParser

VOID = {"img", "path"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{ 7*7 }}{% raw %}",
    "</style></div></table><b onclick=x>&lt;&amp;",
    "a\x1b[2J\u202eb\ud800c",
]


class Node:
    """An element: its tag, attributes and children, which are elements and texts."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    @property
    def text(self):
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    @property
    def classes(self):
        return self.attributes.get("class", "").split()

    def all(self, tag):
        """Lists the elements of a tag, in their order."""
        children = [child for child in self.children if isinstance(child, Node)]
        found = [self] if self.tag == tag else []
        return found + [node for child in children for node in child.all(tag)]


class Parser(HTMLParser):
    """Builds a tree; fails where an element is not closed in its order."""

    def __init__(self):
        super().__init__()
        self.open = [Node("page", {})]

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.open[-1].children.append(Node(tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


class Display:
    """A display: `heading`, `facts` by name, `headers`, and `rows` of texts."""

    def __init__(self, html):
        assert_safe(html)
        parser = Parser()
        parser.feed(html)
        parser.close()
        (self.page,) = parser.open
        (root,) = [c for c in self.page.children if isinstance(c, Node)]
        assert (root.tag, root.classes) == ("div", ["layertap"])
        names = [node.text for node in self.page.all("dt")]
        self.facts = dict(zip(names, self.page.all("dd"), strict=True))
        self.headers = [node.text for node in self.page.all("th")]
        self.lines = [row for row in self.page.all("tr") if row.all("td")]
        self.cells = [row.all("td") for row in self.lines]
        self.rows = [[cell.text for cell in cells] for cells in self.cells]

    def of(self, klass):
        """Returns the texts of the elements of a class."""
        return [node.text for node in self.page.all("div") if klass in node.classes]

    def column(self, heading):
        """Returns the cells of a column by the addresses of their rows, with those."""
        index = self.headers.index(heading)
        names = [row[0].text.split("\n")[0].strip() for row in self.cells]
        columns = [row[index] for row in self.cells]
        return dict(zip(names, columns, strict=True))

    @property
    def pictures(self):
        """The words of each picture."""
        svg = [node.attributes["aria-label"] for node in self.page.all("svg")]
        return svg + [node.attributes["alt"] for node in self.page.all("img")]


def assert_safe(html):
    """Asserts that a display runs nothing, asks for nothing, and is text."""
    html.encode()
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z][^\s/>]*)", html)}
    assert tags <= {
        *("div", "style", "dl", "dt", "dd", "details", "summary", "table", "caption"),
        *("thead", "tbody", "tr", "th", "td", "span", "svg", "title", "path", "img"),
    }
    for tag in re.findall(r"<[a-zA-Z][^>]*>", html):
        names = re.findall(r"\s([a-zA-Z-]+)=", re.sub(r'"[^"]*"', '""', tag))
        assert not [name for name in names if name.startswith("on")]
        assert 'src="' not in tag or 'src="data:image/png;base64,' in tag
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert all(c.isprintable() or c == "\n" for c in html)
