import base64
import html.parser
import re

import numpy as np
import pytest

from score_sde.plots import save_image
from score_sde.plots.html_report import (
    Commands,
    Number,
    Numbers,
    Picture,
    Pictures,
    Report,
    Table,
    Text,
    environment,
    flatten,
    format_value,
)

VOID = {"meta", "img", "br"}


class Checker(html.parser.HTMLParser):
    """Follows the tags, so that one that is never closed is found."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(document):
    checker = Checker()
    checker.feed(document)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def picture(tmp_path):
    return save_image(tmp_path / "grid.png", np.zeros((4, 4, 3), np.uint8))


def test_page_is_whole_and_self_contained(tmp_path, picture):
    report = Report(
        "Digits",
        "Trained in two minutes.",
        [
            Commands(["make quickstart", "python -m experiments.sample --workdir=runs/a"]),
            Numbers([Number("bits/dim", 2.81346, "bits", 0.0213, "lower is better")]),
            Pictures([Picture(picture, "samples"), Picture(picture, "more", wide=False)]),
            Text("Remarks", "First.\n\nSecond."),
            Table("Configuration", {"sde": {"name": "vp", "beta": 20.0}}, folded=True),
        ],
    )
    path = report.write(tmp_path / "new" / "report.html")
    page = parse(path.read_text(encoding="utf-8"))
    text = " ".join(page.text)
    for expected in ("Digits", "make quickstart\npython -m", "2.813 ± 0.021", "First.", "sde.name", "20.0"):
        assert expected in text
    addresses = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert base64.b64decode(addresses[0].split(",")[1]) == picture.read_bytes()
    assert "script" not in path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(", path.read_text(encoding="utf-8"))


def test_everything_is_escaped(picture):
    evil = """<script>alert("1")</script> & 'x'"""
    sections = [
        Text(evil, evil),
        Commands([evil], title=evil),
        Numbers([Number(evil, evil, evil, None, evil)], title=evil),
        Pictures([Picture(picture, evil)], title=evil),
        Table(evil, {evil: {evil: evil}}),
    ]
    document = Report(evil, evil, sections).html()
    assert "<script" not in document
    page = parse(document)
    assert dict(page.attributes)["alt"] == evil
    assert sum(evil in text for text in page.text) == 17


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.813456, 0.0213, "2.813 ± 0.021"),
        (0.97, 0.0052, "0.9700 ± 0.0052"),
        (12345.678, 234.0, "12,346 ± 234"),
        (3.14159265, None, "3.142"),
        (1e-9, None, "1e-09"),
        (123456.7, None, "123,457"),
        (1e-9, 2e-11, "1e-09 ± 2e-11"),
        (1500000, None, "1,500,000"),
        ("VP", None, "VP"),
        (float("nan"), 0.1, "nan"),
        (1.0, float("nan"), "1 ± nan"),
        (1.0, 0.0, "1"),
    ],
)
def test_values_are_rounded_to_their_error(value, error, text):
    assert format_value(value, error) == text


def test_a_value_that_is_not_finite_is_marked():
    assert 'class="value bad"' in Number("loss", float("inf")).html()
    assert 'class="value bad"' not in Number("loss", 1.0).html()


def test_picture_needs_a_file_that_browsers_show(tmp_path):
    with pytest.raises(ValueError, match=r"a file that exists, got .*missing\.png"):
        Picture(tmp_path / "missing.png", "").html()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"ends in \.png, \.gif.* got .*a\.txt"):
        Picture(tmp_path / "a.txt", "").html()


def test_nested_tables_are_dotted():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_environment_names_devices_and_versions():
    found = environment()
    assert "cpu" in found["devices"]
    assert "jax " in found["packages"]
    assert found["processor"]
