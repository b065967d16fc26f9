"""The check of the site's links finds what is dead."""

import pytest

from tools import check_site

PAGE = '<html><body><h1 id="here">x</h1><a href="{link}">a</a><img src="p.png" alt="{alt}"></body></html>'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "b.html").write_text('<p id="there">y</p>')
    return tmp_path


def found(site, link, alt="a picture"):
    (site / "a.html").write_text(PAGE.format(link=link, alt=alt))
    return check_site.problems(site)[0]


@pytest.mark.parametrize("link", ["b.html", "b.html#there", "#here", "p.png", "https://example.org/x"])
def test_live_links_pass(site, link):
    assert found(site, link) == []


@pytest.mark.parametrize(("link", "message"), [("c.html", "not there"), ("b.html#x", "no place"), ("#x", "no place")])
def test_dead_links_are_named(site, link, message, capsys):
    (line,) = found(site, link)
    assert link in line and message in line
    assert check_site.main([str(site)]) == 1
    assert "1 problems" in capsys.readouterr().out


def test_pictures_without_a_text_are_named(site):
    assert "without a text" in found(site, "b.html", alt="")[0]


def test_what_is_loaded_from_elsewhere_is_named(site):
    (site / "a.html").write_text('<script src="https://cdn.example.org/x.js"></script>')
    assert "from elsewhere" in check_site.problems(site)[0][0]


def test_a_folder_that_is_not_there_is_one_line(capsys):
    assert check_site.main(["no-such-folder"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
